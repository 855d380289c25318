//! Ends the program when nothing advances any more, and says what everybody was waiting for.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// What the threads of a test are at.
pub(crate) struct Watch(Arc<Board>);

struct Board {
    ticks: AtomicU64,
    doing: Vec<Mutex<(&'static str, Instant)>>,
}

impl Watch {
    /// Watches over `threads` threads, until it is dropped.
    pub(crate) fn over(threads: usize) -> Self {
        let doing = (0..threads).map(|_| Mutex::new(("nothing yet", Instant::now()))).collect();
        let board = Arc::new(Board { ticks: AtomicU64::new(0), doing });
        let watched = Arc::downgrade(&board);
        thread::spawn(move || watch(&watched));
        Watch(board)
    }

    /// Thread `at` begins something, having ended what it was at.
    pub(crate) fn doing(&self, at: usize, what: &'static str) {
        *self.0.doing[at].lock().unwrap() = (what, Instant::now());
        self.advance();
    }

    pub(crate) fn advance(&self) {
        self.0.ticks.fetch_add(1, SeqCst);
    }
}

fn watch(board: &Weak<Board>) {
    let (mut seen, mut since) = (0, Instant::now());
    while let Some(board) = board.upgrade() {
        let ticks = board.ticks.load(SeqCst);
        if ticks != seen {
            (seen, since) = (ticks, Instant::now());
        } else if since.elapsed() > PATIENCE {
            eprintln!("nothing has advanced for {PATIENCE:?}:");
            for (at, doing) in board.doing.iter().enumerate() {
                let (what, begun) = *doing.lock().unwrap();
                eprintln!("  thread {at}: {what}, for {:?}", begun.elapsed());
            }
            std::process::abort();
        }
        drop(board);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Longer than anything waits that ends at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
