//! The HTTP endpoint: `/metrics`, `/livez`, `/readyz`.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

/// A liveness check that takes longer has failed.
const LIVE_LIMIT: Duration = Duration::from_secs(2);

/// An asynchronous check: fine, or why not.
pub type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// What the endpoint asks; closures, since this room knows nothing of the ones above.
#[derive(Clone)]
pub struct HttpState {
    /// Brings the metrics up to date and renders them.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Does a real path through the process work?
    pub live: Check,
    /// Should traffic come here?
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for HttpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpState")
    }
}

/// Listens; the address tells the port where 0 was asked for.
pub async fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, state: HttpState) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(state);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the HTTP endpoint stopped");
    }
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)())
}

async fn live(State(state): State<HttpState>) -> (StatusCode, String) {
    let result = tokio::time::timeout(LIVE_LIMIT, (state.live)()).await;
    answer(result.unwrap_or_else(|_| Err(format!("no answer within {} ms", LIVE_LIMIT.as_millis()))))
}

async fn ready(State(state): State<HttpState>) -> (StatusCode, String) {
    answer((state.ready)())
}

fn answer(result: Result<(), String>) -> (StatusCode, String) {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
