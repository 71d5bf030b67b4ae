//! Whose turn it is among the tasks of a worker.

use std::future::poll_fn;
use std::task::Poll;

/// Ready when everybody on this worker who is ready now has had a turn.
///
/// Several sessions that are ready do what is alike one after the other in this way: all read, all find out what was read,
/// all send. The code for it is executed again and again while it is in the processor's cache. The kernel's way of sending, which
/// is longer than a cache, would drive it out each time.
pub async fn after_others() {
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        // To the end of the worker's queue, in front of its look at the sockets (`yield_now` would be behind that).
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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
