//! One choice per item so that the sum of losses is least within a sum of sizes: the multiple-choice knapsack problem.
//!
//! Solved exactly, by dynamic programming over sizes in units of what they have in common. Where the table would take more
//! than [`TABLE`] bytes the unit is coarser and sizes are rounded up, so that a budget is never exceeded. One table answers
//! for every budget.

/// One possibility of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its size.
    pub bytes: u64,
    /// What it costs.
    pub loss: f64,
}

/// The table of a problem.
pub struct Knapsack {
    items: Vec<Vec<Choice>>,
    /// The sum of the smallest sizes.
    least: u64,
    unit: u64,
    /// The least loss for so many units more than the least.
    best: Vec<f64>,
    /// The choice of every item, one row per item, when the items up to it may take so many units.
    choices: Vec<Vec<u8>>,
}

/// Bytes that the choices may take.
const TABLE: u64 = 256 << 20;

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

impl Knapsack {
    /// Solves the problem of `items` for all budgets.
    ///
    /// # Panics
    /// When an item has no choices, or more than 255.
    pub fn new(items: Vec<Vec<Choice>>) -> Self {
        Self::within(items, TABLE)
    }

    fn within(items: Vec<Vec<Choice>>, table: u64) -> Self {
        let size = |item: &Vec<Choice>, largest: bool| {
            let sizes = item.iter().map(|choice| choice.bytes);
            let found = if largest { sizes.max() } else { sizes.min() };
            found.unwrap_or_else(|| panic!("an item without choices"))
        };
        let smallest: Vec<u64> = items.iter().map(|item| size(item, false)).collect();
        let least: u64 = smallest.iter().sum();
        let more = || items.iter().zip(&smallest).flat_map(|(item, least)| item.iter().map(move |x| x.bytes - least));
        let most: u64 = items.iter().map(|item| size(item, true)).sum::<u64>() - least;
        let common = more().fold(0, common_divisor).max(1);
        // Rounded up, every item may take a unit more.
        let states = (table / items.len().max(1) as u64).saturating_sub(items.len() as u64).max(2);
        let unit = common * (most / common).div_ceil(states).max(1);
        let units = |bytes: u64| bytes.div_ceil(unit) as usize;
        let capacity: usize = items.iter().zip(&smallest).map(|(item, least)| units(size(item, true) - least)).sum();
        let mut best = vec![0.0; capacity + 1];
        let mut choices = Vec::with_capacity(items.len());
        for (item, least) in items.iter().zip(&smallest) {
            assert!(item.len() <= usize::from(u8::MAX), "too many choices");
            // By rising size, so that of equal losses the smaller wins.
            let mut order: Vec<usize> = (0..item.len()).collect();
            order.sort_by_key(|&i| item[i].bytes);
            let (mut next, mut chosen) = (vec![f64::INFINITY; capacity + 1], vec![0u8; capacity + 1]);
            for i in order {
                let needed = units(item[i].bytes - least);
                for at in needed..=capacity {
                    let loss = best[at - needed] + item[i].loss;
                    if loss < next[at] {
                        (next[at], chosen[at]) = (loss, i as u8);
                    }
                }
            }
            best = next;
            choices.push(chosen);
        }
        Self { items, least, unit, best, choices }
    }

    /// The smallest sum of sizes that there is.
    pub fn least(&self) -> u64 {
        self.least
    }

    /// The largest sum of sizes that can be of use.
    pub fn most(&self) -> u64 {
        self.least + self.unit * (self.best.len() as u64 - 1)
    }

    fn at(&self, budget: u64) -> Option<usize> {
        let more = budget.checked_sub(self.least)? / self.unit;
        Some(usize::try_from(more).map_or(self.best.len() - 1, |more| more.min(self.best.len() - 1)))
    }

    /// The least loss within `budget`; `None` below the least.
    pub fn loss(&self, budget: u64) -> Option<f64> {
        self.at(budget).map(|at| self.best[at])
    }

    /// The choice of every item with the least loss within `budget`; `None` below the least.
    pub fn choose(&self, budget: u64) -> Option<Vec<usize>> {
        let mut at = self.at(budget)?;
        let mut chosen = vec![0; self.items.len()];
        for (i, item) in self.items.iter().enumerate().rev() {
            chosen[i] = usize::from(self.choices[i][at]);
            let least = item.iter().map(|choice| choice.bytes).min().unwrap_or(0);
            at -= (item[chosen[i]].bytes - least).div_ceil(self.unit) as usize;
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The least loss within `budget` by trying everything.
    fn slow(items: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((item, rest)) = items.split_first() else { return Some(0.0) };
        let tries = item.iter().filter(|choice| choice.bytes <= budget);
        let losses = tries.filter_map(|choice| Some(choice.loss + slow(rest, budget - choice.bytes)?));
        losses.min_by(f64::total_cmp)
    }

    fn generated(rng: &mut Rng, unit: u64) -> Vec<Vec<Choice>> {
        (0..1 + rng.below(6))
            .map(|_| {
                let choice = |_| Choice { bytes: unit * rng.below(30) as u64 + 7, loss: rng.below(1000) as f64 / 64.0 };
                (0..4).map(choice).take(4).collect()
            })
            .collect()
    }

    fn sums(items: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let of = items.iter().zip(chosen).map(|(item, &i)| item[i]);
        of.fold((0, 0.0), |(bytes, loss), choice| (bytes + choice.bytes, loss + choice.loss))
    }

    #[test]
    fn it_finds_what_trying_everything_finds() {
        let mut rng = Rng::new(3, 1);
        for case in 0..200 {
            let items = generated(&mut rng, [1, 64, 384][case % 3]);
            let knapsack = Knapsack::new(items.clone());
            for budget in
                (0..40).map(|i| knapsack.least().saturating_sub(9) + (knapsack.most() - knapsack.least() + 30) * i / 39)
            {
                let expected = slow(&items, budget);
                assert_eq!(knapsack.loss(budget), expected, "case {case}, {budget}: {items:?}");
                let chosen = knapsack.choose(budget);
                assert_eq!(chosen.is_some(), expected.is_some());
                if let (Some(chosen), Some(loss)) = (chosen, expected) {
                    let (bytes, found) = sums(&items, &chosen);
                    assert!(
                        bytes <= budget && (found - loss).abs() < 1e-9,
                        "case {case}: {bytes} of {budget}, {found}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_coarse_table_stays_within_the_budget_and_near_the_best() {
        let mut rng = Rng::new(4, 1);
        for _ in 0..50 {
            let items = generated(&mut rng, 997);
            let (exact, coarse) = (Knapsack::new(items.clone()), Knapsack::within(items.clone(), 2000));
            for budget in (0..20).map(|i| exact.least() + (exact.most() - exact.least()) * i / 19) {
                let (bytes, loss) = sums(&items, &coarse.choose(budget).unwrap());
                assert!(bytes <= budget);
                assert!(loss >= exact.loss(budget).unwrap() - 1e-9);
                // As good as the best with a unit less per item.
                let less = budget.saturating_sub(coarse.unit * items.len() as u64);
                assert!(exact.loss(less).is_none_or(|bound| loss <= bound + 1e-9));
            }
        }
    }
}
