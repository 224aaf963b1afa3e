//! Who can still move: one backward reachability pass over "can be ended by".
//!
//! A wait ends when any of its enders acts, so a waiter is alive if any of its enders is. What liveness does not reach
//! is dead for good. The pass runs over three kinds of seeds in turn: what certainly moves; what moves if somebody
//! continues it (stopped processes); what only a signal from outside would move. A node's
//! prospect is the kind of the first seed that reaches it.

use crate::why::Prospect;

/// A directed graph in which an edge leads from a waiter to one that could end its wait. Nodes are numbered from 0.
#[derive(Clone, Debug, Default)]
pub struct Enders {
    edges: Vec<(u32, u32)>,
    nodes: u32,
    /// Start of each node's targets in `targets`; built by [`Enders::seal`].
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Enders {
    /// Adds a node.
    pub fn add_node(&mut self) -> u32 {
        self.nodes += 1;
        self.nodes - 1
    }

    /// Says that `ender` could end the wait of `waiter`.
    pub fn add(&mut self, waiter: u32, ender: u32) {
        self.edges.push((waiter, ender));
    }

    /// Sorts the edges, so that the order they came in does not matter, and drops doubles.
    pub fn seal(&mut self) {
        self.edges.sort_unstable();
        self.edges.dedup();
        (self.starts, self.targets) = adjacency(self.nodes, self.edges.iter().copied());
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes as usize
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes == 0
    }

    /// The enders of a node.
    pub fn of(&self, node: u32) -> &[u32] {
        let at = node as usize;
        match self.starts.get(at..at + 2) {
            Some([from, to]) => &self.targets[*from as usize..*to as usize],
            _ => &[],
        }
    }

    /// The prospect of every node, given the seeds of each kind.
    pub fn prospects(&self, seeds: &[(u32, Prospect)]) -> Vec<Prospect> {
        let (starts, waiters) = adjacency(
            self.nodes,
            self.edges.iter().map(|(waiter, ender)| (*ender, *waiter)),
        );
        let mut prospects = vec![Prospect::Dead; self.nodes as usize];
        let mut queue = Vec::new();
        for kind in [Prospect::Alive, Prospect::HeldByStopped, Prospect::Doubtful] {
            queue.extend(
                seeds
                    .iter()
                    .filter(|(_, prospect)| *prospect == kind)
                    .map(|(node, _)| *node),
            );
            while let Some(node) = queue.pop() {
                let prospect = &mut prospects[node as usize];
                if *prospect != Prospect::Dead {
                    continue;
                }
                *prospect = kind;
                let (from, to) = (starts[node as usize], starts[node as usize + 1]);
                queue.extend_from_slice(&waiters[from as usize..to as usize]);
            }
        }
        prospects
    }

    /// The strongly connected components among the nodes that `inside` accepts from which no accepted edge leads out:
    /// where chains of waits end. Each is sorted; single nodes count.
    pub fn sinks(&self, inside: impl Fn(u32) -> bool) -> Vec<Vec<u32>> {
        let component = self.components(&inside);
        let count = component
            .iter()
            .flatten()
            .max()
            .map_or(0, |last| *last as usize + 1);
        let mut open = vec![false; count];
        let mut members = vec![Vec::new(); count];
        for node in 0..self.nodes {
            let Some(own) = component[node as usize] else {
                continue;
            };
            members[own as usize].push(node);
            for ender in self.of(node) {
                if component[*ender as usize].is_some_and(|other| other != own) {
                    open[own as usize] = true;
                }
            }
        }
        let closed = members
            .into_iter()
            .zip(open)
            .filter(|(_, open)| !open)
            .map(|(members, _)| members);
        let mut sinks: Vec<Vec<u32>> = closed.collect();
        sinks.sort_unstable();
        sinks
    }

    /// Tarjan's algorithm, with a stack of its own instead of recursion: chains can be as long as there are threads.
    fn components(&self, inside: &impl Fn(u32) -> bool) -> Vec<Option<u32>> {
        const UNVISITED: u32 = u32::MAX;
        let size = self.nodes as usize;
        let mut component = vec![None; size];
        let mut index = vec![UNVISITED; size];
        let mut low = vec![0u32; size];
        let (mut next_index, mut next_component) = (0u32, 0u32);
        let mut open: Vec<u32> = Vec::new();
        let mut work: Vec<(u32, usize)> = Vec::new();
        for root in (0..self.nodes).filter(|node| inside(*node)) {
            if index[root as usize] != UNVISITED {
                continue;
            }
            work.push((root, 0));
            while let Some((node, at)) = work.pop() {
                let own = node as usize;
                if at == 0 {
                    index[own] = next_index;
                    low[own] = next_index;
                    next_index += 1;
                    open.push(node);
                }
                let mut descended = false;
                for (position, ender) in self.of(node).iter().enumerate().skip(at) {
                    let other = *ender as usize;
                    if !inside(*ender) {
                        continue;
                    }
                    if index[other] == UNVISITED {
                        // Come back to this edge to take over the result.
                        work.push((node, position + 1));
                        work.push((*ender, 0));
                        descended = true;
                        break;
                    }
                    if component[other].is_none() {
                        low[own] = low[own].min(low[other]);
                    }
                }
                if descended {
                    continue;
                }
                // All children are done: take over what they reach.
                for ender in self.of(node) {
                    let other = *ender as usize;
                    if inside(*ender) && component[other].is_none() {
                        low[own] = low[own].min(low[other]);
                    }
                }
                if low[own] == index[own] {
                    while let Some(member) = open.pop() {
                        component[member as usize] = Some(next_component);
                        if member == node {
                            break;
                        }
                    }
                    next_component += 1;
                }
            }
        }
        component
    }
}

/// Compressed adjacency: `(starts, targets)`, where the targets of `n` are `targets[starts[n]..starts[n + 1]]`.
fn adjacency(nodes: u32, edges: impl Iterator<Item = (u32, u32)> + Clone) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; nodes as usize + 1];
    for (from, _) in edges.clone() {
        starts[from as usize + 1] += 1;
    }
    for node in 0..nodes as usize {
        starts[node + 1] += starts[node];
    }
    let mut next = starts.clone();
    let mut targets = vec![0u32; starts[nodes as usize] as usize];
    for (from, to) in edges {
        let slot = &mut next[from as usize];
        targets[*slot as usize] = to;
        *slot += 1;
    }
    (starts, targets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(nodes: u32, edges: &[(u32, u32)]) -> Enders {
        let mut enders = Enders::default();
        for _ in 0..nodes {
            enders.add_node();
        }
        for (from, to) in edges {
            enders.add(*from, *to);
        }
        enders.seal();
        enders
    }

    /// By definition, and slowly: repeat "alive if any ender is alive" until nothing changes, kind by kind.
    fn oracle(nodes: u32, edges: &[(u32, u32)], seeds: &[(u32, Prospect)]) -> Vec<Prospect> {
        let mut prospects = vec![Prospect::Dead; nodes as usize];
        for kind in [Prospect::Alive, Prospect::HeldByStopped, Prospect::Doubtful] {
            for (node, prospect) in seeds {
                if *prospect == kind && prospects[*node as usize] == Prospect::Dead {
                    prospects[*node as usize] = kind;
                }
            }
            loop {
                let before = prospects.clone();
                for (waiter, ender) in edges {
                    if prospects[*waiter as usize] == Prospect::Dead && prospects[*ender as usize] == kind {
                        prospects[*waiter as usize] = kind;
                    }
                }
                if before == prospects {
                    break;
                }
            }
        }
        prospects
    }

    fn reachable(nodes: u32, edges: &[(u32, u32)], from: u32) -> Vec<bool> {
        let mut seen = vec![false; nodes as usize];
        seen[from as usize] = true;
        for _ in 0..nodes {
            for (a, b) in edges {
                if seen[*a as usize] {
                    seen[*b as usize] = true;
                }
            }
        }
        seen
    }

    type Case = (u32, Vec<(u32, u32)>, Vec<(u32, Prospect)>);

    fn random() -> impl Strategy<Value = Case> {
        (1u32..14).prop_flat_map(|nodes| {
            let edges = prop::collection::vec((0..nodes, 0..nodes), 0..30);
            let kind = prop_oneof![
                Just(Prospect::Alive),
                Just(Prospect::HeldByStopped),
                Just(Prospect::Doubtful)
            ];
            let seeds = prop::collection::vec((0..nodes, kind), 0..4);
            (Just(nodes), edges, seeds)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_the_oracle((nodes, edges, seeds) in random()) {
            prop_assert_eq!(graph(nodes, &edges).prospects(&seeds), oracle(nodes, &edges, &seeds));
        }

        #[test]
        fn order_of_edges_and_seeds_does_not_matter((nodes, mut edges, mut seeds) in random()) {
            let forward = graph(nodes, &edges).prospects(&seeds);
            let sinks = graph(nodes, &edges).sinks(|_| true);
            edges.reverse();
            seeds.reverse();
            prop_assert_eq!(graph(nodes, &edges).prospects(&seeds), forward);
            prop_assert_eq!(graph(nodes, &edges).sinks(|_| true), sinks);
        }

        #[test]
        fn a_knot_has_no_live_ender((nodes, edges, seeds) in random()) {
            let graph = graph(nodes, &edges);
            let prospects = graph.prospects(&seeds);
            for knot in graph.sinks(|node| prospects[node as usize] == Prospect::Dead) {
                for member in knot {
                    for ender in graph.of(member) {
                        prop_assert_eq!(prospects[*ender as usize], Prospect::Dead);
                    }
                }
            }
        }

        #[test]
        fn sinks_are_the_components_without_a_way_out((nodes, edges, _) in random()) {
            let reach: Vec<Vec<bool>> = (0..nodes).map(|node| reachable(nodes, &edges, node)).collect();
            let mut expected: Vec<Vec<u32>> = Vec::new();
            for (node, reached) in reach.iter().enumerate() {
                let everything_comes_back =
                    (0..nodes as usize).all(|other| !reached[other] || reach[other][node]);
                let members: Vec<u32> = (0..nodes).filter(|other| reached[*other as usize]).collect();
                if everything_comes_back && !expected.contains(&members) {
                    expected.push(members);
                }
            }
            expected.sort_unstable();
            prop_assert_eq!(graph(nodes, &edges).sinks(|_| true), expected);
        }
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_neither_overflows_nor_lingers() {
        let count = 100_000;
        let edges: Vec<(u32, u32)> = (0..count).map(|node| (node, (node + 1) % count)).collect();
        let graph = graph(count, &edges);
        assert!(
            graph
                .prospects(&[])
                .iter()
                .all(|prospect| *prospect == Prospect::Dead)
        );
        assert_eq!(graph.sinks(|_| true).len(), 1);
        assert!(
            graph
                .prospects(&[(7, Prospect::Alive)])
                .iter()
                .all(|prospect| *prospect == Prospect::Alive)
        );
    }
}
