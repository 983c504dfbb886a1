//! Model checking: every order in which workers can execute what they share without a lock. `make loom`.
#![cfg(all(loom, test))]

#[path = "../../src/worker/rate.rs"]
mod rate;

mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::rate::{INTERVAL_NS, RateLimit};

    /// How many of three workers, two of them beside this thread, are allowed at the times given.
    fn allowed(limit: &Arc<RateLimit>, times: [u64; 3]) -> usize {
        let [first, second, third] = times;
        let others: Vec<_> = [second, third]
            .into_iter()
            .map(|now| {
                let limit = Arc::clone(limit);
                thread::spawn(move || limit.allow("host", now))
            })
            .collect();
        let here = limit.allow("host", first);
        others.into_iter().map(|other| other.join().unwrap()).filter(|allowed| *allowed).count() + usize::from(here)
    }

    #[test]
    fn of_workers_that_ask_at_once_exactly_one_is_allowed() {
        loom::model(|| {
            let limit = Arc::new(RateLimit::new());
            assert_eq!(allowed(&limit, [5, 6, 7]), 1);
            assert_eq!(allowed(&limit, [5 + INTERVAL_NS - 1, 6, 4]), 0);
        });
    }

    #[test]
    fn workers_whose_clocks_differ_by_an_interval_are_allowed_once_or_twice() {
        loom::model(|| {
            let limit = Arc::new(RateLimit::new());
            let allowed = allowed(&limit, [5, 6, 7 + INTERVAL_NS]);
            assert!((1..=2).contains(&allowed), "{allowed}");
        });
    }
}
