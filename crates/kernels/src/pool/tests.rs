use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use super::*;

fn counts(pool: &Pool) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..pool.threads()).map(|_| AtomicUsize::new(0)).collect();
    pool.run(&|index| {
        counts[index].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_index_runs_once() {
    for (asked, threads) in [(0, 1), (1, 1), (2, 2), (3, 3), (8, 8), (64, 64)] {
        let pool = Pool::new(asked);
        assert_eq!(pool.threads(), threads);
        for _ in 0..50 {
            assert_eq!(counts(&pool), vec![1; threads]);
        }
    }
}

#[test]
fn workers_wake_up_again_after_parking() {
    let pool = Pool::new(3);
    for _ in 0..4 {
        assert_eq!(counts(&pool), [1; 3]);
        // However busy the machine, idle workers must park at last.
        while !pool.shared.seats[1..].iter().all(|seat| seat.0.parked.load(Ordering::SeqCst)) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn caller_sleeps_through_a_slow_worker() {
    let pool = Pool::new(2);
    for slow in [0, 1] {
        pool.run(&|index| {
            if index == slow {
                thread::sleep(Duration::from_millis(30));
            }
        });
    }
    assert_eq!(counts(&pool), [1; 2]);
}

#[test]
fn panics_reach_the_caller_and_the_pool_survives() {
    let pool = Pool::new(4);
    for bad in 0..4 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|index| assert_ne!(index, bad, "worker {bad} fails"));
        }));
        let payload = result.expect_err("the panic must reach the caller");
        assert!(payload.downcast_ref::<String>().is_some_and(|text| text.contains("fails")));
        assert_eq!(counts(&pool), [1; 4]);
    }
    assert!(catch_unwind(AssertUnwindSafe(|| pool.run(&|_| panic!("all fail")))).is_err());
    assert_eq!(counts(&pool), [1; 4]);
}

#[test]
fn nested_and_concurrent_regions_run_serially() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    pool.run(&|_| {
        pool.run(&|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 9);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(counts(&pool), [1; 3])));
        }
    });
}

#[test]
fn chunks_are_disjoint_and_complete() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for (len, chunk) in [(0, 1), (1, 1), (1, 5), (10, 3), (64, 8), (65, 8), (7, 100)] {
            let mut out = vec![usize::MAX; len];
            pool.for_chunks(&mut out, chunk, |index, part| {
                assert!(part.len() == chunk || index == len / chunk);
                for (i, value) in part.iter_mut().enumerate() {
                    assert_eq!(*value, usize::MAX);
                    *value = index * chunk + i;
                }
            });
            assert!(out.iter().copied().eq(0..len), "{threads} threads, {len} by {chunk}");
        }
    }
}

#[test]
fn dropping_joins_workers() {
    let pool = Pool::new(4);
    let shared = Arc::clone(&pool.shared);
    assert_eq!(counts(&pool), [1; 4]);
    drop(pool);
    assert_eq!(Arc::strong_count(&shared), 1);
    drop(Pool::new(2)); // never used
}

#[test]
fn items_are_worked_on_once_whatever_the_shares() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for (items, grain) in [(0, 1), (1, 1), (1, 4), (2, 1), (9, 2), (64, 1), (1000, 7)] {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            let seen: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            pool.share(items, grain, &|claims| {
                assert_eq!(seen[claims.thread()].fetch_add(1, Ordering::Relaxed), 0, "one closure per thread");
                while let Some(range) = claims.next() {
                    assert!(range.len() == grain || range.end == items);
                    range.for_each(|item| {
                        counts[item].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert!(counts.into_iter().all(|count| count.into_inner() == 1), "{threads} threads, {items} by {grain}");
        }
    }
}

#[test]
fn the_rest_of_a_stuck_worker_is_done_by_others() {
    let pool = Pool::new(2);
    for _ in 0..20 {
        let done = AtomicUsize::new(0);
        pool.share(64, 1, &|claims| {
            while claims.next().is_some() {
                // A worker that gets a first item keeps it until everything else is done.
                while claims.thread() == 1 && done.load(Ordering::SeqCst) < 63 {
                    thread::yield_now();
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(done.into_inner(), 64);
    }
}

#[test]
fn too_many_threads_are_refused_by_name() {
    let error = catch_unwind(|| Pool::new(Pool::MAX_THREADS + 1)).expect_err("refused");
    assert_eq!(error.downcast_ref::<String>().map(String::as_str), Some("8193 threads, at most 8192"));
}

/// Forks; the child runs `work` and says whether it got to the end.
#[cfg(unix)]
fn in_a_child(work: impl FnOnce()) -> bool {
    use std::ffi::{c_int, c_uint};

    unsafe extern "C" {
        fn fork() -> c_int;
        fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
        fn alarm(seconds: c_uint) -> c_uint;
        fn _exit(code: c_int) -> !;
    }
    // SAFETY: the child touches what the forking thread owns and the allocator, which the C library makes ready for it, and
    // leaves without running what the parent will run; a child that hangs is killed.
    unsafe {
        match fork() {
            -1 => panic!("cannot fork"),
            0 => {
                alarm(60);
                let done = catch_unwind(AssertUnwindSafe(work)).is_ok();
                _exit(c_int::from(!done))
            }
            child => {
                let mut status = -1;
                assert_eq!(waitpid(child, &mut status, 0), child);
                status == 0
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_forked_process_drops_the_pool_or_uses_it_with_threads_of_its_own() {
    let pool = Pool::new(3);
    assert_eq!(counts(&pool), [1; 3]);
    let unused = std::cell::Cell::new(Some(Pool::new(2)));
    assert!(in_a_child(|| drop(unused.take())));
    let used = std::cell::Cell::new(Some(Pool::new(3)));
    assert!(in_a_child(|| {
        let pool = used.take().unwrap();
        for _ in 0..50 {
            assert_eq!(counts(&pool), [1; 3]);
        }
        assert_eq!(pool.heir.get().unwrap().workers.len(), 2);
        // And so on.
        assert!(in_a_child(|| assert_eq!(counts(&pool), [1; 3])));
        assert_eq!(counts(&pool), [1; 3]);
        drop(pool);
    }));
    assert!(pool.heir.get().is_none());
    assert_eq!(counts(&pool), [1; 3], "the parent keeps its threads");
}
