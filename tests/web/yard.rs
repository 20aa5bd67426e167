//! Calls that are noted when they begin, and handlers that tell what became of theirs.

use std::sync::Mutex;

use forkpool::prelude::*;

use crate::harness::*;

/// A journal of the calls that began, a gate behind which calls wait, and what handlers told.
pub struct Yard {
    journal: Scratch,
    gate: Scratch,
    told: Mutex<Vec<String>>,
}

impl Yard {
    pub fn new() -> Self {
        Yard { journal: Scratch::path(), gate: Scratch::path(), told: Mutex::default() }
    }

    /// A call that ends at once, never, or with the gate.
    pub fn task(&self, number: u64, kind: &str) -> Task {
        let act = if kind == "spin" { Act::Spin } else { Act::Answer };
        let gate = if kind == "gated" { self.gate.some() } else { None };
        Task(number, self.journal.get().to_owned(), gate, act)
    }

    pub fn open(&self) {
        std::fs::write(self.gate.get(), "").expect("a file");
    }

    /// The calls that began, in that order, each with its process.
    pub fn began(&self) -> Vec<(u64, u32)> {
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let parts = |line: &str| line.split_once(' ').map(|(call, pid)| (number(call), number(pid)));
        let lines = self.journal.lines();
        let calls = lines.iter().map(|line| parts(line).expect("two numbers"));
        calls.map(|(call, pid)| (call, u32::try_from(pid).expect("a pid"))).collect()
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.began().into_iter().map(|(number, _)| number).collect()
    }

    /// The process of the call that began last, once so many have.
    pub async fn begun(&self, count: usize) -> u32 {
        until(&format!("{count} calls have begun"), || self.began().len() == count).await;
        self.began()[count - 1].1
    }

    pub fn tell(&self, what: impl Into<String>) {
        self.told.lock().expect("it does not panic").push(what.into());
    }

    /// What handlers have told, once it is so much.
    pub async fn told(&self, count: usize) -> Vec<String> {
        let told = || self.told.lock().expect("it does not panic").clone();
        until("handlers have told", || told().len() >= count).await;
        told()
    }
}

/// What a call came to, as text.
pub fn outcome<T: std::fmt::Debug>(answer: Result<T, Failure>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(failure) => format!("{}: {failure}", failure.kind()),
    }
}
