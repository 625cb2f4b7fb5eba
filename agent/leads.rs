//! Where a path of the host leads, asked in a way that holds nobody up.
//!
//! The file system may be another machine's that does not answer (a hard NFS mount, a FUSE daemon that has stopped): whoever asks it then
//! sleeps until it does, and cannot be ended. So a thread of its own asks: one for each path, whose answer is everybody's who wants it
//! meanwhile, and only so many of them. A path that hangs keeps one of these, however often it is asked for, until the file system comes back.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// For a place and an answer. Who asks is a call that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Paths that are asked for at the same time; more wait for one of them. Each that hangs is a thread that sleeps, some KiB.
const MOST: usize = 32;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Without links.
    To(String),
    /// It is not there.
    Nowhere,
    /// None came.
    None,
}

pub fn leads_to(path: &str) -> Answer {
    static ALL: LazyLock<Arc<Questions>> = LazyLock::new(|| Questions::new(MOST, PATIENCE));
    let wait = || ALL.ask(path, real);
    // The runtime's other tasks go on meanwhile.
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

fn real(path: &str) -> io::Result<String> {
    #[cfg(test)]
    tests::hang(path);
    std::fs::canonicalize(path).map(|real| real.to_string_lossy().into_owned())
}

/// A path that leads nowhere, where other errors say that nobody knows.
fn is_nowhere(error: &io::Error) -> bool {
    // ENOENT, ENOTDIR, ENAMETOOLONG, ELOOP; and a path with a zero byte.
    matches!(error.raw_os_error(), Some(2 | 20 | 36 | 40)) || error.kind() == io::ErrorKind::InvalidInput
}

/// Those that are under way.
struct Questions {
    most: usize,
    patience: Duration,
    under_way: Mutex<HashMap<String, Arc<Question>>>,
    /// One of them has its answer, and its place is free.
    answered: Condvar,
}

struct Question {
    since: Instant,
    answer: OnceLock<Answer>,
}

/// The place of a path among those that are under way.
struct Place {
    of: Arc<Questions>,
    path: String,
    question: Arc<Question>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Where whoever asked ended without one.
        let _ = self.question.answer.set(Answer::None);
        self.of.under_way().remove(&self.path);
        self.of.answered.notify_all();
    }
}

impl Questions {
    fn new(most: usize, patience: Duration) -> Arc<Questions> {
        Arc::new(Questions { most, patience, under_way: Mutex::default(), answered: Condvar::new() })
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Arc<Question>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hangs(&self, question: &Question) -> bool {
        question.since.elapsed() >= self.patience
    }

    fn ask(self: &Arc<Self>, path: &str, find: impl FnOnce(&str) -> io::Result<String> + Send + 'static) -> Answer {
        let until = Instant::now() + self.patience;
        let mut under_way = self.under_way();
        let question = loop {
            match under_way.get(path) {
                Some(same) if self.hangs(same) => return Answer::None,
                Some(same) => break same.clone(),
                None if under_way.len() < self.most => {
                    let question = Arc::new(Question { since: Instant::now(), answer: OnceLock::new() });
                    under_way.insert(path.to_owned(), question.clone());
                    drop(under_way);
                    self.begin(Place { of: self.clone(), path: path.to_owned(), question: question.clone() }, find);
                    under_way = self.under_way();
                    break question;
                }
                // Nobody waits for the place of what has hung for long.
                None if under_way.values().all(|question| self.hangs(question)) => return Answer::None,
                None => {}
            }
            under_way = match self.wait(under_way, until) {
                Some(changed) => changed,
                None => return Answer::None,
            };
        };
        loop {
            if let Some(answer) = question.answer.get() {
                return answer.clone();
            }
            under_way = match self.wait(under_way, until) {
                Some(changed) => changed,
                None => return Answer::None,
            };
        }
    }

    /// In a thread of its own, which has the place until it ends.
    fn begin(&self, place: Place, find: impl FnOnce(&str) -> io::Result<String> + Send + 'static) {
        let work = move || {
            let answer = match find(&place.path) {
                Ok(to) => Answer::To(to),
                Err(e) if is_nowhere(&e) => Answer::Nowhere,
                // It may be there.
                Err(_) => Answer::None,
            };
            let _ = place.question.answer.set(answer);
        };
        // Where there is no thread, the place goes with the work, and there is no answer.
        let _ = std::thread::Builder::new().name("path".to_owned()).spawn(work);
    }

    /// Until one has its answer. `None`: it is too late.
    fn wait<'a>(
        &self,
        under_way: MutexGuard<'a, HashMap<String, Arc<Question>>>,
        until: Instant,
    ) -> Option<MutexGuard<'a, HashMap<String, Arc<Question>>>> {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(self.answered.wait_timeout(under_way, left).unwrap_or_else(PoisonError::into_inner).0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// What is below it does not answer.
    pub const HUNG: &str = "/hung-in-tests";

    pub fn hang(path: &str) {
        while path.starts_with(HUNG) {
            std::thread::park();
        }
    }

    const SHORT: Duration = Duration::from_millis(300);

    /// A file system that does not answer until the sender is gone, and how many ask it.
    fn hung() -> (mpsc::Sender<()>, Arc<AtomicUsize>, impl Fn(&str) -> io::Result<String> + Clone + Send + 'static) {
        let (back, away) = mpsc::channel::<()>();
        let (away, asked) = (Arc::new(Mutex::new(away)), Arc::new(AtomicUsize::new(0)));
        let find = {
            let asked = asked.clone();
            move |path: &str| {
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = away.lock().unwrap_or_else(PoisonError::into_inner).recv();
                Ok(path.to_owned())
            }
        };
        (back, asked, find)
    }

    /// What each of so many who ask at once is told.
    fn all_at_once(n: usize, ask: impl Fn(usize) -> Answer + Sync) -> Vec<Answer> {
        std::thread::scope(|scope| {
            let ask = &ask;
            let threads: Vec<_> = (0..n).map(|n| scope.spawn(move || ask(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn links_are_followed() {
        assert_eq!(leads_to("/proc/self/.."), Answer::To("/proc".to_owned()));
        assert_eq!(leads_to("/not/there"), Answer::Nowhere);
        assert_eq!(leads_to(&format!("{HUNG}/x")), Answer::None);
        assert_eq!(leads_to("/"), Answer::To("/".to_owned()));
    }

    #[test]
    fn what_cannot_be_looked_at_may_be_there() {
        let questions = Questions::new(2, SHORT);
        let (long, looped) = (format!("/{}", "x".repeat(300)), "/proc/self/exe/x");
        for path in ["/not/there", long.as_str(), looped, "/zero\0byte"] {
            assert_eq!(questions.ask(path, real), Answer::Nowhere, "{path:?}");
        }
        // EIO, EACCES, ETIMEDOUT, ESTALE
        for errno in [5, 13, 110, 116] {
            assert_eq!(
                questions.ask("/nfs", move |_| Err(io::Error::from_raw_os_error(errno))),
                Answer::None,
                "{errno}"
            );
        }
    }

    #[test]
    fn a_path_that_hangs_keeps_one_thread_however_often_it_is_asked_for() {
        let questions = Questions::new(2, SHORT);
        let (back, asked, find) = hung();
        let answers = all_at_once(20, |_| questions.ask("/nfs", find.clone()));
        assert!(answers.iter().all(|answer| *answer == Answer::None), "{answers:?}");
        let begun = Instant::now();
        for _ in 0..100 {
            assert_eq!(questions.ask("/nfs", find.clone()), Answer::None);
        }
        assert!(begun.elapsed() < SHORT * 50, "what is known to hang is not waited for, or it were twice that");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(questions.ask("/", real), Answer::To("/".to_owned()), "others have their place");
        drop(back);
        while !questions.under_way().is_empty() {
            std::thread::sleep(SHORT / 30);
        }
        assert_eq!(questions.ask("/nfs", find), Answer::To("/nfs".to_owned()), "it is back");
    }

    #[test]
    fn a_burst_waits_for_its_turn() {
        let questions = Questions::new(4, SHORT * 20);
        let (asking, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let slow = move |path: &str| {
            highest.fetch_max(asking.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(SHORT / 10);
            asking.fetch_sub(1, Ordering::SeqCst);
            assert!(highest.load(Ordering::SeqCst) <= 4);
            Ok(path.to_owned())
        };
        let answers = all_at_once(40, |n| questions.ask(&format!("/{n}"), slow.clone()));
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Answer::To(format!("/{n}")));
        }
    }

    #[test]
    fn all_places_may_hang() {
        let questions = Questions::new(MOST, SHORT);
        let (back, asked, find) = hung();
        let answers = all_at_once(MOST, |n| questions.ask(&format!("/nfs/{n}"), find.clone()));
        assert!(answers.iter().all(|answer| *answer == Answer::None), "{answers:?}");
        assert_eq!(questions.ask("/", real), Answer::None, "there is no place");
        drop(back);
        while !questions.under_way().is_empty() {
            std::thread::sleep(SHORT / 30);
        }
        assert_eq!(asked.load(Ordering::SeqCst), MOST);
        assert_eq!(questions.ask("/", real), Answer::To("/".to_owned()));
    }

    #[test]
    fn who_asks_and_ends_without_an_answer_gives_its_place_back() {
        let questions = Questions::new(1, SHORT * 20);
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(questions.ask("/x", |_| panic!("meant")), Answer::None);
            assert!(begun.elapsed() < SHORT * 10);
        }
        assert_eq!(questions.ask("/", real), Answer::To("/".to_owned()));
    }
}
