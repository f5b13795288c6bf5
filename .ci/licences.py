"""The licences of everything that a package of the workspace is linked with: licences.py PACKAGE TARGET."""
import glob
import json
import os
import subprocess
import sys

package, target = sys.argv[1:]
command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
metadata = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
packages = {found["id"]: found for found in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
open_, linked = [id for id, found in packages.items() if found["name"] == package], set()
while open_:
    id = open_.pop()
    if id in linked:
        continue
    linked.add(id)
    # What only builds or tests is not in the program.
    for dependency in nodes[id]["deps"]:
        if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
            open_.append(dependency["pkg"])

texts = {}
for found in sorted((packages[id] for id in linked if packages[id]["source"]), key=lambda found: found["name"]):
    folder = os.path.dirname(found["manifest_path"])
    names = sorted(name for kind in ("LICEN[CS]E*", "COPYING*", "NOTICE*") for name in glob.glob(os.path.join(folder, kind)) if os.path.isfile(name))
    print(f"{found['name']} {found['version']}: {found['license']}")
    for name in names:
        with open(name, encoding="utf-8", errors="replace") as file:
            texts.setdefault(file.read().strip(), []).append(f"{found['name']} {os.path.basename(name)}")
for text, users in texts.items():
    print("\n" + "=" * 100 + "\n" + ", ".join(users) + "\n\n" + text)
