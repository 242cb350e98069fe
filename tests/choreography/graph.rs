//! All paths from a beginning to the ends, walked as a graph: a state that is reached on several paths is one state.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

/// What is walked.
pub trait Maze {
    type State: Eq + Hash;

    /// The successors of a state: what happens, whether that is a mishap, and the next state.
    async fn next(&mut self, state: &Self::State) -> Vec<(u32, bool, Self::State)>;
    /// The violations in a state; `is_last` where nothing can happen any more.
    fn wrong(&mut self, state: &Self::State, is_last: bool) -> Vec<String>;
    /// What must never follow on each other, if that is what these do.
    fn forbidden(&self, before: &Self::State, after: &Self::State) -> Option<String>;
    /// What happens, for people.
    fn about(&self, what: u32) -> String;
}

/// How a state was first reached.
#[derive(Debug, Clone, Copy)]
struct Reached {
    from: u32,
    by: u32,
    mishap: bool,
}

/// Things by number, so that a state is small and quickly compared.
#[derive(Debug)]
pub struct Numbered<T> {
    things: Vec<Rc<T>>,
    numbers: HashMap<Rc<T>, u32>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { things: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T: Eq + Hash> Numbered<T> {
    /// The number of a thing.
    pub fn of(&mut self, thing: T) -> u32 {
        let next = u32::try_from(self.things.len()).unwrap();
        *self.numbers.entry(Rc::new(thing)).or_insert_with_key(|thing| {
            self.things.push(Rc::clone(thing));
            next
        })
    }

    /// The thing with a number.
    pub fn get(&self, number: u32) -> Option<&Rc<T>> {
        self.things.get(number as usize)
    }
}

/// How large a graph was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    pub states: usize,
    pub ways: u128,
}

/// Walks all paths. A violation is reported with the path that leads there.
pub async fn walk<M: Maze>(maze: &mut M, root: M::State) -> Result<Size, String> {
    let root = Rc::new(root);
    let mut states = vec![Rc::clone(&root)];
    let mut reached = vec![Reached { from: u32::MAX, by: u32::MAX, mishap: false }];
    let mut numbers = HashMap::from([(root, 0_u32)]);
    let mut edges: Vec<Vec<u32>> = Vec::new();
    while let Some(state) = states.get(edges.len()).map(Rc::clone) {
        let index = edges.len();
        let next = maze.next(&state).await;
        let wrong = maze.wrong(&state, next.is_empty());
        if !wrong.is_empty() {
            return Err(format!("{}, {}", wrong.join(", "), way(maze, &reached, index)));
        }
        let mut to = Vec::with_capacity(next.len());
        let from = u32::try_from(index).unwrap();
        for (by, mishap, next) in next {
            let next = Rc::new(next);
            let number = *numbers.entry(next).or_insert_with_key(|next| {
                states.push(Rc::clone(next));
                reached.push(Reached { from, by, mishap });
                u32::try_from(states.len() - 1).unwrap()
            });
            if let Some(wrong) = maze.forbidden(&state, &states[number as usize]) {
                return Err(format!("{wrong}, {}, and then {}", way(maze, &reached, index), maze.about(by)));
            }
            to.push(number);
        }
        to.sort_unstable();
        to.dedup();
        edges.push(to);
    }
    Ok(Size { states: states.len(), ways: ways(&edges).ok_or("it goes round and round")? })
}

/// The path to a state, for people.
fn way<M: Maze>(maze: &M, reached: &[Reached], mut index: usize) -> String {
    let mut steps = Vec::new();
    while let Some(Reached { from, by, mishap }) = reached.get(index).filter(|reached| reached.from != u32::MAX) {
        steps.push(format!("{}{}", maze.about(*by), if *mishap { " (a mishap)" } else { "" }));
        index = *from as usize;
    }
    steps.reverse();
    format!("by {steps:#?}")
}

/// How many paths lead from the first state to an end. `None` if one of them would never end.
fn ways(edges: &[Vec<u32>]) -> Option<u128> {
    let mut open = vec![0_usize; edges.len()];
    for to in edges.iter().flatten() {
        open[*to as usize] += 1;
    }
    let mut ways = vec![0_u128; edges.len()];
    ways[0] = 1;
    let (mut ready, mut walked, mut ended) = (vec![0_usize], 0, 0_u128);
    while let Some(state) = ready.pop() {
        walked += 1;
        if edges[state].is_empty() {
            ended = ended.saturating_add(ways[state]);
        }
        for to in &edges[state] {
            let to = *to as usize;
            ways[to] = ways[to].saturating_add(ways[state]);
            open[to] -= 1;
            if open[to] == 0 {
                ready.push(to);
            }
        }
    }
    (walked == edges.len()).then_some(ended)
}
