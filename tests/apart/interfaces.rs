//! Interfaces that change from one release to the next.

use std::time::Duration;

use forkpool::prelude::*;

use crate::clerks::*;
use crate::harness::*;
use crate::*;

tests! {
    a_client_fits_a_server_that_has_its_messages,
    methods_and_messages_that_are_written_by_hand_are_the_same_on_the_wire,
    what_is_new_in_a_type_makes_another_message_of_it,
    a_take_over_keeps_clients_that_fit_and_stays_for_others,
    a_take_over_is_refused_for_a_client_that_does_not_fit,
    a_client_at_a_port_cannot_stay,
    a_predecessor_that_stays_has_an_end,
}

/// A pool at this test's place, of a release.
macro_rules! clerks {
    ($place:expr, $release:ident) => {
        Pool::<$release::Clerk>::connect($place.address())
            .name(stringify!($release))
            .workers(1..=2)
            .transport(transport())
            .start()
            .expect("the pool starts")
    };
}

/// Which release's workers answer this pool's orders.
macro_rules! served_by {
    ($pool:expr, $release:ident) => {{
        let answered = bounded("an answer", $pool.send($release::Order::Plain(1))).await;
        let $release::Receipt::Plain(server) = answered.expect("a receipt");
        server
    }};
}

/// S11
fn a_client_fits_a_server_that_has_its_messages() {
    run(async {
        let place = Place::new();
        let _server = serving("clerks=grown");
        // It counts its messages otherwise, and has one more.
        let old = clerks!(place, first);
        assert_eq!(answer(old.send(first::Add { a: 1 })).await.expect("a sum"), 2);
        assert_eq!(served_by!(old, first), "grown");
        let batch: Vec<_> = (0..10).map(|a| first::Add { a }).collect();
        let sums: Vec<u32> = old.send_batch(batch).await.into_iter().map(|sum| sum.expect("a sum")).collect();
        assert_eq!(sums, (1..=10).collect::<Vec<u32>>());
        let new = clerks!(place, grown);
        assert_eq!(answer(new.send(grown::Release)).await.expect("a name"), "grown");
        let small = clerks!(place, shrunk);
        assert_eq!(answer(small.send(shrunk::Add { a: 7 })).await.expect("a sum"), 8);
        bounded("the end", old.stop(Duration::ZERO)).await;
        bounded("the end", new.stop(Duration::ZERO)).await;
        bounded("the end", small.stop(Duration::ZERO)).await;
    });
}

/// R6
fn methods_and_messages_that_are_written_by_hand_are_the_same_on_the_wire() {
    use by_methods::ClerkCalls as _;
    for (server, told) in [("first", "first"), ("by_methods", "by_methods")] {
        run(async {
            let place = Place::new();
            let _server = serving(&format!("clerks={server}"));
            let (written, made) = (clerks!(place, first), clerks!(place, by_methods));
            assert_eq!(answer(written.send(first::Add { a: 1 })).await.expect("a sum"), 2);
            assert_eq!(answer(made.add(1)).await.expect("a sum"), 2);
            let receipt = bounded("a receipt", made.send(first::Order::Plain(1))).await;
            let by_methods::Receipt::Plain(name) = receipt.expect("a receipt");
            assert_eq!(name, told);
            assert_eq!(served_by!(written, first), told);
            bounded("the end", written.stop(Duration::ZERO)).await;
            bounded("the end", made.stop(Duration::ZERO)).await;
        });
    }
}

/// S11: the rows of docs/UPGRADES.md.
fn what_is_new_in_a_type_makes_another_message_of_it() {
    /// Bytes of the first release, decoded by another one.
    fn bears<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> bool {
        postcard::from_bytes::<T>(bytes).is_ok()
    }
    let encoded = |value: &first::Add| postcard::to_stdvec(value).expect("bytes");
    let add = encoded(&first::Add { a: 7 });
    let order = postcard::to_stdvec(&first::Order::Plain(7)).expect("bytes");
    let receipt = postcard::to_stdvec(&first::Receipt::Plain(String::new())).expect("bytes");
    // What postcard bears.
    assert!(!bears::<field_added::Add>(&add), "a default does not help");
    assert!(bears::<field_renamed::Add>(&add));
    assert!(bears::<field_widened::Add>(&add));
    assert!(bears::<variant_in_message::Order>(&order));
    assert!(bears::<variant_in_result::Receipt>(&receipt));
    let signed = postcard::to_stdvec(&variant_in_result::Receipt::Signed).expect("bytes");
    assert!(!bears::<first::Receipt>(&signed), "an old client cannot read what is new");
    let problem = postcard::to_stdvec(&variant_in_error::Problem::Closed).expect("bytes");
    assert!(!bears::<first::Problem>(&problem));
    // What servers say of a client of the first release.
    run(async {
        let place = Place::new();
        for (release, expected) in [
            ("shrunk", "the server has no Order"),
            ("field_added", "the message Add has another type there"),
            ("field_renamed", "the message Add has another type there"),
            ("field_widened", "the message Add has another type there"),
            ("variant_in_message", "the message Order has another type there"),
            ("variant_in_result", "the result of Order has another type there"),
            ("variant_in_error", "the error of Order has another type there"),
        ] {
            let mut server = serving(&format!("clerks={release}"));
            let pool = clerks!(place, first);
            let refused = bounded("an answer", pool.ready()).await.expect_err(release);
            let told = format!("{refused:#}");
            assert!(refused.kind() == FailureKind::NoServer && told.contains(expected), "{release}: {told}");
            bounded("the end", pool.stop(Duration::ZERO)).await;
            server.kill();
            server.ends();
        }
    });
}

/// S4: the new server has no Order, so a client that may send one stays with the old server.
fn a_take_over_keeps_clients_that_fit_and_stays_for_others() {
    run(async {
        let place = Place::new();
        let mut old = serving("clerks=first");
        let (fits, stays) = (clerks!(place, shrunk), clerks!(place, first));
        assert_eq!(answer(fits.send(shrunk::Add { a: 1 })).await.expect("a sum"), 2);
        assert_eq!(served_by!(stays, first), "first");
        let mut new = serving("clerks=shrunk take_over");
        let told = old.tells("a client stays with the old server").await;
        assert!(told.contains("the server has no Order"), "{told}");
        until("the one that fits has moved", || !children(new.pid()).is_empty()).await;
        // New workers are forked for the other one as well.
        let (one, two) = (stays.checkout().start(), stays.checkout().start());
        for checkout in [&one, &two] {
            assert_eq!(answer(checkout.send(first::Add { a: 1 })).await.expect("a sum"), 2);
        }
        until("it has two workers", || children(old.pid()).len() == 2).await;
        assert_eq!(answer(fits.send(shrunk::Add { a: 1 })).await.expect("a sum"), 2);
        let late = clerks!(place, first);
        let refused = bounded("an answer", late.ready()).await.expect_err("the new server has no Order");
        assert!(format!("{refused:#}").contains("the server has no Order"), "{refused:#}");
        drop((one, two));
        for stop in [late.stop(Duration::ZERO), stays.stop(Duration::ZERO)] {
            bounded("the end", stop).await;
        }
        old.tells("good bye").await;
        assert!(old.ends().success());
        // The client that moved goes on, and its server is taken over in turn.
        let mut third = serving("clerks=grown take_over");
        new.tells("good bye").await;
        assert_eq!(answer(fits.send(shrunk::Add { a: 2 })).await.expect("a sum"), 3);
        bounded("the end", fits.stop(Duration::ZERO)).await;
        third.kill();
        third.ends();
    });
}

/// S4
fn a_take_over_is_refused_for_a_client_that_does_not_fit() {
    run(async {
        let place = Place::new();
        let _old = serving("clerks=first");
        let pool = clerks!(place, first);
        assert_eq!(served_by!(pool, first), "first");
        let told = server("clerks=shrunk take_over refuses").says("refused:");
        assert!(told.contains("the pool \"first\" would not fit") && told.contains("no Order"), "{told}");
        assert_eq!(served_by!(pool, first), "first");
        // Without it the take-over comes about.
        bounded("the end", pool.stop(Duration::ZERO)).await;
        serving("clerks=shrunk take_over refuses").kill();
    });
}

/// S4: the connections of its workers would reach the successor.
fn a_client_at_a_port_cannot_stay() {
    run(async {
        let _place = Place::new();
        let port = network::port();
        let _old = serving(&format!("clerks=first also=tcp:127.0.0.1:{port}"));
        let pool = Pool::<first::Clerk>::connect(format!("tcp:127.0.0.1:{port}")).name("far").workers(1..=1);
        let pool = pool.start().expect("the pool starts");
        assert_eq!(served_by!(pool, first), "first");
        let told = server(&format!("clerks=shrunk take_over also=tcp:127.0.0.1:{port}")).says("refused:");
        assert!(told.contains("cannot stay there") && told.contains("no Order"), "{told}");
        assert_eq!(served_by!(pool, first), "first");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S4
fn a_predecessor_that_stays_has_an_end() {
    run(async {
        let place = Place::new();
        let mut old = serving("clerks=first drain=300");
        let pool = clerks!(place, first);
        assert_eq!(served_by!(pool, first), "first");
        let _new = serving("clerks=shrunk take_over");
        old.tells("good bye").await;
        // At first it may still have the worker of the old one, or only know that that one is gone.
        let refused = async {
            loop {
                match pool.ready().await {
                    Ok(()) => actix_rt::task::yield_now().await,
                    Err(refused) => {
                        assert_eq!(refused.kind(), FailureKind::NoServer);
                        if format!("{refused:#}").contains("the server has no Order") {
                            return;
                        }
                    }
                }
            }
        };
        bounded("the reason", refused).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
