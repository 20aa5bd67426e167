//! Real pools of workers whose calls are methods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// What an account may be called with; a method's message has its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    to: String,
    amount: i64,
}

#[derive(Debug, thiserror::Error, PartialEq, Serialize, Deserialize)]
pub enum BankError {
    #[error("{0} is not enough")]
    TooLittle(i64),
    #[error("{0}")]
    Worker(String),
}

impl From<Failure> for BankError {
    fn from(failure: Failure) -> Self {
        BankError::Worker(failure.kind().to_string())
    }
}

type Banked<T> = Result<T, BankError>;

#[derive(Default, Worker)]
pub struct Bank {
    accounts: BTreeMap<String, i64>,
}

#[forkpool::methods(also(Reset), derive(Clone, Debug, PartialEq))]
impl Bank {
    /// Books an entry, and returns what the account has then.
    pub fn entry(&mut self, entry: &Entry) -> Banked<i64> {
        let account = self.accounts.entry(entry.to.clone()).or_default();
        *account = account.checked_add(entry.amount).ok_or(BankError::TooLittle(*account))?;
        Ok(*account)
    }

    pub(crate) fn withdraw(&mut self, from: &str, amount: i64) -> Result<i64, BankError> {
        let left = self.accounts.get(from).copied().unwrap_or_default();
        if left < amount {
            return Err(BankError::TooLittle(left));
        }
        self.accounts.insert(from.to_owned(), left - amount);
        Ok(left - amount)
    }

    fn sums(&self) -> Result<BTreeMap<String, i64>, BankError> {
        Ok(self.accounts.clone())
    }

    /// The name of the call, an argument that is named as the context is, and fields of all kinds.
    #[allow(clippy::too_many_arguments, clippy::type_complexity, reason = "these are the kinds of arguments")]
    fn r#type(
        &self,
        ctx: u8,
        bytes: &[u8],
        path: &Path,
        mut text: String,
        number: Option<u32>,
        #[serde(with = "as_text")] spelled: u64,
        context: &mut WorkerContext<Self>,
    ) -> Result<(u8, Vec<u8>, PathBuf, String, Option<u32>, u64, String), Failure> {
        text.push('!');
        let call = context.call().map(|call| call.name).unwrap_or_default();
        Ok((ctx, bytes.to_vec(), path.to_owned(), text, number, spelled, call.to_owned()))
    }

    fn result(&self) -> Result<Option<String>, Failure> {
        Ok(Some("one whose message hides a name of the prelude".to_owned()))
    }

    fn crash(&self, code: i32) -> Result<(), Failure> {
        std::process::exit(code)
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A message that is written by hand.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<usize, BankError>")]
struct Reset {
    but: String,
}

impl Handler<Reset> for Bank {
    type Result = Result<usize, BankError>;

    fn handle(&mut self, Reset { but }: Reset, _: &mut WorkerContext<Self>) -> Self::Result {
        self.accounts.retain(|name, _| *name == but);
        Ok(self.accounts.len())
    }
}

/// A struct that is its own configuration.
#[derive(Serialize, Deserialize, Worker)]
#[worker(config = Self)]
struct Greeter {
    greeting: String,
}

#[forkpool::methods]
impl Greeter {
    fn greet(&self, name: &str) -> Result<String, Failure> {
        Ok(format!("{} {name}", self.greeting))
    }
}

/// A struct that is made of its configuration.
#[derive(Worker)]
#[worker(config = String)]
struct Port(u16);

impl TryFrom<String> for Port {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Port)
    }
}

#[forkpool::methods(module = port_calls)]
impl Port {
    fn number(&self) -> Result<u16, Failure> {
        Ok(self.0)
    }
}

#[derive(Worker)]
struct Unit;

#[forkpool::methods]
impl Unit {
    fn answer(&self) -> Result<u8, Failure> {
        Ok(42)
    }
}

forkpool::boot!(Bank, Greeter, Port, Unit);

fn bank() -> PoolHandle<Bank> {
    Pool::<Bank>::builder(Bank::CONFIG).workers(1..=4).start().expect("the pool starts")
}

/// This block has no calls, so it has what else the worker needs.
impl Bank {
    const CONFIG: () = ();
}

async fn ended<W: Worker>(pool: PoolHandle<W>) {
    let report = pool.stop(Duration::ZERO).await;
    assert!(report.is_complete(), "{report:?}");
}

fn entry(to: &str, amount: i64) -> Entry {
    Entry { to: to.to_owned(), amount }
}

#[actix::test]
async fn every_kind_of_handle_has_the_methods() {
    let pool = bank();
    assert_eq!(pool.result().await.expect("an answer").as_deref().map(str::len), Some(45));
    let class = pool.class("tellers").most(1).expect("a class");
    assert_eq!(class.withdraw("Eve", 1).await, Err(BankError::TooLittle(0)));
    let checkout = pool.checkout().open();
    assert_eq!(checkout.entry(&entry("Ada", 3)).await, Ok(3));
    assert_eq!(checkout.withdraw("Ada", 1).await, Ok(2));
    assert_eq!(checkout.sums().await, Ok(BTreeMap::from([("Ada".to_owned(), 2)])));
    assert_eq!(checkout.call(Reset { but: "Eve".to_owned() }).await, Ok(0));
    drop(checkout);
    let address = pool.checkout().start();
    assert_eq!(address.entry(&entry("Eve", 5)).await, Ok(5));
    assert_eq!(address.withdraw("Eve", 9).await, Err(BankError::TooLittle(5)));
    drop((class, address));
    ended(pool).await;
}

#[actix::test]
async fn arguments_of_all_kinds_arrive() {
    let pool = bank();
    let answer =
        pool.r#type(7, b"bytes", Path::new("/a"), "text".to_owned(), None, 9).await.expect("an answer");
    let expected =
        (7, b"bytes".to_vec(), PathBuf::from("/a"), "text!".to_owned(), None, 9, "Type".to_owned());
    assert_eq!(answer, expected);
    ended(pool).await;
}

/// Code that does not know what takes its calls.
async fn moved<C: BankCalls>(calls: &C, from: &str, to: &str) -> Banked<i64> {
    calls.withdraw(from, 1).await?;
    calls.entry(&entry(to, 1)).await
}

#[actix::test]
async fn code_may_be_generic_over_what_takes_its_calls() {
    let pool = bank();
    let (handle, address) = (pool.checkout().open(), pool.checkout().start());
    assert_eq!(moved(&pool, "Ada", "Eve").await, Err(BankError::TooLittle(0)));
    handle.entry(&entry("Ada", 1)).await.expect("an entry");
    assert_eq!(moved(&handle, "Ada", "Eve").await, Ok(1));
    address.entry(&entry("Ada", 2)).await.expect("an entry");
    assert_eq!(moved(&address, "Ada", "Eve").await, Ok(1));
    drop((handle, address));
    ended(pool).await;
}

#[actix::test]
async fn messages_are_made_of_what_methods_take() {
    let pool = bank();
    let message = bank::Withdraw::new("Ada", 2);
    assert_eq!(message.clone(), bank::Withdraw { from: "Ada".to_owned(), amount: 2 });
    assert_eq!(format!("{message:?}"), "Withdraw { from: \"Ada\", amount: 2 }");
    let batch = [1, 2, 3].map(|amount| bank::Entry::new(&entry("Ada", amount)));
    let sums: Vec<_> = pool.send_batch(batch.into()).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(sums, [1, 3, 6]);
    let late = pool.send_within(Duration::ZERO, bank::Sums).await;
    assert_eq!(late, Err(BankError::Worker("timeout".to_owned())));
    ended(pool).await;
}

/// The lines of calls that fail, as a handler of their context is told.
#[actix::test]
async fn the_trace_of_a_failed_call_names_the_line_of_its_caller() {
    let pool = bank();
    let traces: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = traces.clone();
    let context = ErrorContext::named("a test").on_failure(move |failure: ContextFailure| {
        let call = failure.trace().frames().next().map(ToString::to_string);
        heard.lock().unwrap_or_else(PoisonError::into_inner).extend(call);
    });
    let (handle, address) = (pool.checkout().open(), pool.checkout().start());
    let class = pool.class("tellers").most(1).expect("a class");
    let first = line!() + 1;
    assert!(context.run(|| pool.withdraw("Ada", 1)).await.is_err());
    assert!(context.run(|| class.withdraw("Ada", 1)).await.is_err());
    assert!(context.run(|| handle.withdraw("Ada", 1)).await.is_err());
    assert!(context.run(|| address.withdraw("Ada", 1)).await.is_err());
    let expected = [0, 1, 2, 3].map(|row| format!("{}:{} - bank -> Withdraw", file!(), first + row));
    assert_eq!(*traces.lock().unwrap_or_else(PoisonError::into_inner), expected);
    drop((handle, address, class));
    ended(pool).await;
}

#[actix::test]
async fn what_ends_a_call_becomes_its_own_error() {
    let pool = bank();
    assert_eq!(pool.crash(3).await.unwrap_err().kind(), FailureKind::Died);
    let arbiter = Arbiter::new();
    let address = pool.checkout().start_in(&arbiter.handle());
    assert_eq!(address.sums().await, Ok(BTreeMap::new()));
    arbiter.stop();
    arbiter.join().expect("the arbiter ends");
    // Its mailbox is closed.
    assert_eq!(address.sums().await, Err(BankError::Worker("stopped".to_owned())));
    drop(address);
    ended(pool).await;
}

#[actix::test]
async fn a_worker_without_a_setup_has_one_of_its_shape() {
    let greeter = Greeter { greeting: "hello".to_owned() };
    let greeters = Pool::<Greeter>::builder(greeter).workers(1..=1).start().expect("the pool starts");
    assert_eq!(greeters.greet("Ada").await.expect("a greeting"), "hello Ada");
    ended(greeters).await;

    let ports =
        |text: &str| Pool::<Port>::builder(text.to_owned()).workers(1..=1).start().expect("the pool starts");
    let pool = ports("80");
    assert_eq!(pool.call(port_calls::Number).await.expect("a number"), 80);
    ended(pool).await;
    let pool = ports("eighty");
    let failure = pool.number().await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Setup);
    assert!(failure.to_string().contains("invalid digit"), "{failure}");
    ended(pool).await;

    let units = Pool::<Unit>::builder(()).workers(1..=1).start().expect("the pool starts");
    assert_eq!(units.answer().await.expect("a number"), 42);
    ended(units).await;
}
