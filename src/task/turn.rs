//! Whose turn it is among the tasks of a worker.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Ready when everybody on this worker who is ready now has had a turn.
///
/// What several sessions have to send is sent then, one after the other: until then the code that makes it is executed
/// for one session after the other, and finds itself in the processor's cache. The kernel's way of sending, which is
/// longer than a cache, would drive it out each time.
pub fn after_others() -> AfterOthers {
    AfterOthers { has_waited: false }
}

/// What [`after_others`] returns.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct AfterOthers {
    has_waited: bool,
}

impl Future for AfterOthers {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_waited, true) {
            return Poll::Ready(());
        }
        // To the end of the worker's queue, in front of its look at the sockets (`yield_now` would be behind that).
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Three tasks are ready: all do what they do first before one goes on, and they go on in the same order.
    #[tokio::test]
    async fn who_is_ready_goes_first() {
        let (said, heard) = mpsc::channel();
        let speak = |name: &'static str| {
            let said = said.clone();
            crate::task::spawn("speaker", async move {
                assert!(said.send((name, 1)).is_ok());
                after_others().await;
                assert!(said.send((name, 2)).is_ok());
            })
        };
        for task in ["a", "b", "c"].map(speak) {
            assert!(task.await.is_ok());
        }
        drop(said);
        let order: Vec<_> = heard.iter().collect();
        assert_eq!(order, [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)]);
    }
}
