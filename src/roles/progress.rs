//! A bar on the terminal while the state is brought up.

use super::held::Readiness;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::watch;

/// Bringing up that takes less is not shown.
const BRIEF: Duration = Duration::from_millis(500);

/// Shows how far it is, where standard error is a terminal, until the service ends.
pub(super) async fn show(mut readiness: watch::Receiver<Readiness>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    loop {
        let is_reading = |readiness: &Readiness| matches!(readiness, Readiness::BringingUp { total: 1.., .. } | Readiness::Stopped);
        if readiness.wait_for(is_reading).await.is_err() {
            return;
        }
        tokio::time::sleep(BRIEF).await;
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
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
