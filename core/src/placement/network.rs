//! The largest flow through a network, by Dinic's algorithm (Soviet Math. Doklady
//! 11, 1970).

use std::collections::VecDeque;

/// What is less than this is nothing.
const EPSILON: f64 = 1e-7;

#[derive(Debug, Clone, Copy)]
struct FlowArc {
    to: usize,
    room: f64,
}

/// Nodes, by number, and arcs with room between them. An arc and its reverse stand next
/// to each other.
#[derive(Debug, Clone, Default)]
pub(super) struct FlowNetwork {
    arcs: Vec<FlowArc>,
    leaving: Vec<Vec<usize>>,
}

impl FlowNetwork {
    pub(super) fn new(nodes: usize) -> Self {
        Self { arcs: Vec::new(), leaving: vec![Vec::new(); nodes] }
    }

    /// Adds an arc, and returns its number.
    pub(super) fn add(&mut self, from: usize, to: usize, room: f64) -> usize {
        let number = self.arcs.len();
        self.arcs.push(FlowArc { to, room });
        self.arcs.push(FlowArc { to: from, room: 0.0 });
        self.leaving[from].push(number);
        self.leaving[to].push(number + 1);
        number
    }

    /// Gives an arc that nothing has flowed through another room.
    pub(super) fn set_capacity(&mut self, arc: usize, room: f64) {
        self.arcs[arc].room = room;
    }

    /// Sends as much as there is room for, and returns how much that is.
    pub(super) fn flow(&mut self, source: usize, sink: usize) -> f64 {
        let mut total = 0.0;
        loop {
            let depths = self.depths(source);
            if depths[sink] == usize::MAX {
                return total;
            }
            let mut next = vec![0; self.leaving.len()];
            loop {
                let sent = self.send(source, sink, f64::INFINITY, &depths, &mut next);
                if sent <= EPSILON {
                    break;
                }
                total += sent;
            }
        }
    }

    /// Which nodes more could still be sent to.
    pub(super) fn reached(&self, source: usize) -> Vec<bool> {
        self.depths(source).into_iter().map(|depth| depth != usize::MAX).collect()
    }

    /// How many arcs with room lead to each node, at least.
    fn depths(&self, source: usize) -> Vec<usize> {
        let mut depths = vec![usize::MAX; self.leaving.len()];
        depths[source] = 0;
        let mut queue = VecDeque::from([source]);
        while let Some(node) = queue.pop_front() {
            for arc in self.leaving[node].iter().map(|arc| &self.arcs[*arc]) {
                if arc.room > EPSILON && depths[arc.to] == usize::MAX {
                    depths[arc.to] = depths[node] + 1;
                    queue.push_back(arc.to);
                }
            }
        }
        depths
    }

    /// Sends at most so much along arcs that lead one deeper each. It is as deep as
    /// the networks are long: a few arcs.
    fn send(&mut self, node: usize, sink: usize, most: f64, depths: &[usize], next: &mut [usize]) -> f64 {
        if node == sink {
            return most;
        }
        let mut sent = 0.0;
        while next[node] < self.leaving[node].len() {
            let number = self.leaving[node][next[node]];
            let FlowArc { to, room } = self.arcs[number];
            if room > EPSILON && depths[to] == depths[node] + 1 {
                let some = self.send(to, sink, room.min(most - sent), depths, next);
                self.arcs[number].room -= some;
                self.arcs[number ^ 1].room += some;
                sent += some;
                if most - sent <= EPSILON {
                    return sent;
                }
            }
            next[node] += 1;
        }
        sent
    }
}
