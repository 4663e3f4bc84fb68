//! Answers scrapes. Whatever a client does, it holds one of
//! [`MAX_CONNECTIONS`] places for [`PATIENCE`] at most, so clients that hang
//! cannot keep others out for longer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::text::{OPENMETRICS_TYPE, PLAIN_TYPE};
use super::{Metrics, openmetrics, plain, protobuf};

/// Clients that are served at the same time.
const MAX_CONNECTIONS: usize = 32;

/// From a connection's beginning to its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the head of its request.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(
        "cannot listen on {address}: another program does; end it, or give another port to --listen"
    )]
    InUse { address: SocketAddr },
    #[error("cannot listen on {address}; give an address of this machine to --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start the server")]
    Start { source: std::io::Error },
}

/// A socket that listens.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
}

impl Server {
    /// Listens; connections wait until [`Self::serve`].
    ///
    /// # Errors
    /// The address is taken or is not of this machine.
    pub fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ServerError::Start { source })?;
        let listener =
            runtime.block_on(TcpListener::bind(address)).map_err(|source| match source.kind() {
                std::io::ErrorKind::AddrInUse => ServerError::InUse { address },
                _ => ServerError::Listen { address, source },
            })?;
        Ok(Self { runtime, listener })
    }

    /// Where it listens; the port that was taken if 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers from `metrics` until `stop` is over.
    pub fn serve(self, metrics: Arc<Mutex<Metrics>>, stop: impl Future<Output = ()>) {
        let Self { runtime, listener } = self;
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, metrics) => {}
                () = stop => {}
            }
        });
    }
}

async fn accept(listener: TcpListener, metrics: Arc<Mutex<Metrics>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors, or a client that left: not for the others.
            Err(error) => {
                tracing::warn!("cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = respond(&request, &metrics);
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(PATIENCE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("a client was not served: {error}"),
                Err(_) => tracing::debug!("a client was too slow"),
            }
            drop(place);
        });
    }
}

fn respond(request: &Request<Incoming>, metrics: &Mutex<Metrics>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, PLAIN_TYPE, "only GET\n".into());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let metrics = metrics.lock().unwrap_or_else(PoisonError::into_inner);
    match request.uri().path() {
        "/metrics" => {
            let families = metrics.families();
            drop(metrics);
            let accept = request.headers().get_all(ACCEPT).iter();
            let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
            let (media_type, body) = match exposition(&accept.join(",")) {
                Exposition::Protobuf => (protobuf::TYPE, protobuf::encode(&families)),
                Exposition::OpenMetrics => (OPENMETRICS_TYPE, openmetrics(&families).into_bytes()),
                Exposition::Plain => (PLAIN_TYPE, plain(&families).into_bytes()),
            };
            answer(StatusCode::OK, media_type, body)
        }
        "/healthz" => match metrics.ended() {
            None => answer(StatusCode::OK, PLAIN_TYPE, "ok\n".into()),
            Some(reason) => {
                let body = format!("not tracing: {reason}\n").into_bytes();
                answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TYPE, body)
            }
        },
        "/" => answer(StatusCode::OK, PLAIN_TYPE, "unionbench: see /metrics, /healthz\n".into()),
        _ => answer(StatusCode::NOT_FOUND, PLAIN_TYPE, "see /metrics, /healthz\n".into()),
    }
}

fn answer(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(media_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposition {
    Protobuf,
    OpenMetrics,
    Plain,
}

/// The one that `accept` prefers, by its weights and then by its order. Prometheus
/// asks for protobuf first where native histograms are switched on.
fn exposition(accept: &str) -> Exposition {
    let mut best = (0.0, Exposition::Plain);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or("").to_ascii_lowercase();
        let parameters: Vec<&str> = parts.collect();
        let is = |name: &str, value: &str| {
            parameters.iter().any(|p| {
                p.split_once('=').is_some_and(|(n, v)| {
                    n.trim().eq_ignore_ascii_case(name) && v.trim().trim_matches('"') == value
                })
            })
        };
        let found = match media_type.as_str() {
            "application/vnd.google.protobuf"
                if is("proto", "io.prometheus.client.MetricFamily")
                    && is("encoding", "delimited") =>
            {
                Exposition::Protobuf
            }
            "application/openmetrics-text" => Exposition::OpenMetrics,
            "text/plain" | "text/*" | "*/*" => Exposition::Plain,
            _ => continue,
        };
        let weight = parameters.iter().find_map(|p| p.strip_prefix("q="));
        let weight = weight.map_or(1.0, |q| q.trim().parse::<f64>().unwrap_or(0.0));
        if weight > best.0 {
            best = (weight, found);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_is_what_the_client_prefers() {
        // As Prometheus 2.42 asks, without native histograms and with them.
        let without = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let with = format!(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,{without}"
        );
        assert_eq!(exposition(without), Exposition::OpenMetrics);
        assert_eq!(exposition(&with), Exposition::Protobuf);
        assert_eq!(exposition("*/*"), Exposition::Plain);
        assert_eq!(exposition(""), Exposition::Plain);
        assert_eq!(exposition("application/vnd.google.protobuf;encoding=text"), Exposition::Plain);
        let weighed = "text/plain;q=0.3, application/openmetrics-text;q=0.9";
        assert_eq!(exposition(weighed), Exposition::OpenMetrics);
    }
}
