//! The budget of write buffer bytes: the way in waits for room, dropped buffers give it back.

use loom::sync::Arc;

use crate::engine::budget::Budget;
use crate::notify::block_on;

#[test]
fn who_waits_for_room_is_woken() {
    loom::model(|| {
        let budget = Arc::new(Budget::new(1));
        budget.take(2);
        let waiter = {
            let budget = Arc::clone(&budget);
            loom::thread::spawn(move || {
                block_on(budget.room_for(|| 0));
                assert!(!budget.is_full_for(|| 0), "nobody takes meanwhile");
            })
        };
        // Not enough, then enough.
        budget.give_back(1);
        budget.give_back(1);
        waiter.join().expect("the waiter ends");
    });
}

#[test]
fn all_who_wait_for_room_are_woken() {
    crate::model_of_three(|| {
        let budget = Arc::new(Budget::new(1));
        budget.take(1);
        let waiters = [(); 2].map(|()| {
            let budget = Arc::clone(&budget);
            loom::thread::spawn(move || block_on(budget.room_for(|| 0)))
        });
        budget.give_back(1);
        for waiter in waiters {
            waiter.join().expect("the waiter ends");
        }
    });
}
