
// Values under the pointer, or under a cursor that the arrow keys move. The figures are whole without it.
"use strict";
const tip = document.getElementById("tip");

const number = (x) => {
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e9) return x.toExponential(3);
  if (size >= 1e4) return Math.round(x).toLocaleString("en");
  return String(Number(x.toPrecision(5)));
};
const element = (name, className, parent) => {
  const made = document.createElement(name);
  made.className = className;
  parent.append(made);
  return made;
};

for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.parentElement.querySelector("script").textContent);
  const drawn = [];
  // Places that the keys go through, in percent.
  const places = data.series
    ? [...new Set(data.series.flatMap((one) => one.points.map((point) => point[3])))].sort((a, b) => a - b)
    : data.steps.map((_, column) => (100 * (column + 0.5)) / data.steps.length);
  let place = -1;

  const clear = () => { drawn.splice(0).forEach((one) => one.remove()); tip.hidden = true; };
  const line = (swatch, text) => {
    const row = element("div", "", tip);
    if (swatch) element("i", "swatch", row).style.background = swatch;
    row.append(text);
  };
  const curves = (left) => {
    const nearest = (points) => points.reduce((best, point) => (Math.abs(point[3] - left) < Math.abs(best[3] - left) ? point : best));
    const found = data.series.map((one) => [one, nearest(one.points)]);
    const at = found.reduce((best, one) => (Math.abs(one[1][3] - left) < Math.abs(best[1][3] - left) ? one : best))[1];
    const [first, last] = at;
    line("", `${data.over} ${first === last ? number(first) : `${number(first)} to ${number(last)}, mean`}`);
    const cursor = element("i", "cursor", plot);
    cursor.style.left = `${at[3]}%`;
    drawn.push(cursor);
    for (const [one, point] of found) {
      // A curve that has nothing near here says nothing.
      const isNear = Math.abs(point[3] - at[3]) <= 2;
      if (!isNear) continue;
      line(one.color, `${one.name}: ${number(point[2])}`);
      const mark = element("i", "mark", plot);
      Object.assign(mark.style, { left: `${point[3]}%`, top: `${point[4]}%`, background: one.color });
      drawn.push(mark);
    }
  };
  const shares = (left, top) => {
    const column = Math.min(data.steps.length - 1, Math.floor((left / 100) * data.steps.length));
    const bins = data.bins[column];
    const bin = Math.min(bins.length - 1, Math.max(0, Math.floor((1 - top / 100) * bins.length)));
    const edge = (at) => String(Number(((2 * at) / bins.length - 1) * data.reach).toPrecision(3));
    line("", `step ${data.steps[column].toLocaleString("en")}`);
    const range = bin === 0 ? `below ${edge(1)}` : bin === bins.length - 1 ? `above ${edge(bin)}` : `${edge(bin)} to ${edge(bin + 1)}`;
    line("", `${data.unit} ${range}: ${bins[bin] === null ? "-" : number(100 * bins[bin])} % of the weights`);
  };
  const show = (left, top) => {
    clear();
    tip.replaceChildren();
    if (data.series) curves(left); else shares(left, top);
    tip.hidden = false;
    const box = plot.getBoundingClientRect();
    const [x, y] = [box.left + (left / 100) * box.width, box.top + (top / 100) * box.height];
    const { width, height } = tip.getBoundingClientRect();
    const beside = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
    tip.style.left = `${Math.max(8, Math.min(beside, innerWidth - 8 - width))}px`;
    tip.style.top = `${Math.max(8, Math.min(y - height - 10, innerHeight - 8 - height))}px`;
  };

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const inside = (x, size) => Math.max(0, Math.min(100, (100 * x) / size));
    show(inside(event.clientX - box.left, box.width), inside(event.clientY - box.top, box.height));
  });
  plot.addEventListener("pointerleave", clear);
  plot.addEventListener("blur", clear);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") clear();
    if (!by || !places.length) return;
    event.preventDefault();
    place = Math.max(0, Math.min(places.length - 1, place < 0 && by < 0 ? places.length - 1 : place + by));
    show(places[place], 50);
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
