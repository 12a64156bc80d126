//! A bar on the terminal while the state is brought up.

use super::held::Readiness;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::watch;

/// Bringing up that takes less is not shown.
const BRIEF: Duration = Duration::from_millis(500);

/// Shows how far it is, where standard error is a terminal, until the service ends.
pub(super) async fn show(readiness: watch::Receiver<Readiness>) {
    if std::io::stderr().is_terminal() {
        show_on(readiness, ProgressDrawTarget::stderr).await;
    }
}

async fn show_on(mut readiness: watch::Receiver<Readiness>, target: impl Fn() -> ProgressDrawTarget) {
    loop {
        let is_reading = |readiness: &Readiness| matches!(readiness, Readiness::BringingUp { total: 1.., .. } | Readiness::Stopped);
        if readiness.wait_for(is_reading).await.is_err() {
            return;
        }
        tokio::time::sleep(BRIEF).await;
        let bar = ProgressBar::with_draw_target(None, target());
        let style = ProgressStyle::with_template("bringing the state up [{wide_bar}] {human_pos} of {human_len} records, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        loop {
            let at = *readiness.borrow_and_update();
            let Readiness::BringingUp { done, total } = at else { break };
            bar.set_length(total);
            bar.set_position(done);
            if readiness.changed().await.is_err() {
                break;
            }
        }
        bar.finish_and_clear();
        if *readiness.borrow() == Readiness::Stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::io::Result;
    use std::sync::{Arc, Mutex};

    /// A terminal that keeps what is written.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_bar_shows_how_far_it_is_and_goes() {
        let (tell, readiness) = watch::channel(Readiness::BringingUp { done: 0, total: 0 });
        let terminal = Terminal::default();
        let its_own = terminal.clone();
        let shown = tokio::spawn(show_on(readiness, move || ProgressDrawTarget::term_like(Box::new(its_own.clone()))));
        let screen = || terminal.0.lock().unwrap().clone();
        let until = async |what: &str, holds: &dyn Fn(&str) -> bool| {
            let looks = async {
                while !holds(&screen()) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), looks).await.unwrap_or_else(|_| panic!("{what}: {}", screen()));
        };
        tell.send(Readiness::BringingUp { done: 3, total: 10_000 }).unwrap();
        until("it is shown", &|screen| screen.contains("3 of 10,000 records")).await;
        tell.send(Readiness::BringingUp { done: 9_999, total: 10_000 }).unwrap();
        until("it goes on", &|screen| screen.contains("9,999 of 10,000 records")).await;
        tell.send(Readiness::Ready).unwrap();
        until("it is gone", &str::is_empty).await;
        tell.send(Readiness::Stopped).unwrap();
        shown.await.unwrap();
    }
}
