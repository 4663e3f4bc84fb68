//! `unionbench export` as its clients see it, a real Prometheus among them, and
//! what `packaging/` holds for it.

mod recording;
#[path = "skip/mod.rs"]
mod skip;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skip::skipped;

struct Exporter {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Exporter {
    /// Serves a recording of `n` copy-ups, each in a container of its own.
    fn start(n: u64, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("trace.jsonl");
        let events: Vec<_> =
            (0..n).map(|i| recording::copy_up(i, "/a/b", &format!("{i:012}"))).collect();
        std::fs::write(&file, recording::text(&events)).expect("writes");
        let mut child = Command::new(env!("CARGO_BIN_EXE_unionbench"))
            .args(["export", "--listen", "127.0.0.1:0", "--replay"])
            .arg(&file)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let stderr = child.stderr.take().expect("is piped");
        BufReader::new(stderr).read_line(&mut line).expect("says where it listens");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.expect(&line).parse().expect("an address");
        let exporter = Self { child, address, _folder: folder };
        // The recording is read beside the serving.
        wait_for("the recording's end", || exporter.get("/healthz").starts_with("HTTP/1.1 503"));
        exporter
    }

    fn get(&self, path: &str) -> String {
        self.ask("GET", path, "*/*")
    }

    fn ask(&self, method: &str, path: &str, accept: &str) -> String {
        String::from_utf8_lossy(&self.ask_raw(method, path, accept)).into_owned()
    }

    fn ask_raw(&self, method: &str, path: &str, accept: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("asks");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answers and closes");
        answer
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn each_client_gets_what_it_asks_for() {
    let exporter = Exporter::start(5, &[]);
    let text = exporter.get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert_eq!(text.matches("\nunionbench_copy_ups_total{").count(), 5);
    let open = exporter.ask("GET", "/metrics", "application/openmetrics-text;version=1.0.0");
    assert!(open.contains("application/openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
    let wanted = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let answer = exporter.ask_raw("GET", "/metrics", wanted);
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let mut body = &answer[split..];
    let mut n_native = 0;
    while !body.is_empty() {
        use prost::Message as _;
        let family = unionbench::export::protobuf::MetricFamily::decode_length_delimited(&mut body)
            .expect("decodes");
        n_native += family.metric.iter().filter(|m| m.histogram.is_some()).count();
    }
    assert_eq!(n_native, 5);
    assert!(exporter.get("/no").starts_with("HTTP/1.1 404"));
    assert!(exporter.ask("POST", "/metrics", "*/*").starts_with("HTTP/1.1 405"));
    assert!(exporter.ask("HEAD", "/metrics", "*/*").starts_with("HTTP/1.1 200"));
}

#[test]
fn an_explosion_of_labels_is_bounded_and_counted() {
    let exporter = Exporter::start(500, &["--max-label-sets", "20"]);
    let text = exporter.get("/metrics");
    assert_eq!(text.matches("\nunionbench_events_total{").count(), 21);
    assert!(text.contains("\nunionbench_folded_events_total 480\n"), "{text}");
    assert!(text.contains(r#"unionbench_events_total{mount="other",container="other",pod="other",operation="copyup",opcode=""} 480"#));
}

#[test]
fn clients_that_hang_do_not_keep_others_out() {
    let exporter = Exporter::start(1, &[]);
    let mut hung: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(exporter.address).expect("connects");
            stream.write_all(b"GET /metrics HTT").expect("begins to ask");
            stream
        })
        .collect();
    assert!(exporter.get("/metrics").contains("unionbench_events_total"));
    // The server ends them; a reset is an end too.
    let mut rest = Vec::new();
    let _ = hung[0].read_to_end(&mut rest);
    assert!(exporter.get("/metrics").contains("unionbench_events_total"));
}

#[test]
fn a_port_in_use_is_told() {
    let exporter = Exporter::start(1, &[]);
    let second = Command::new(env!("CARGO_BIN_EXE_unionbench"))
        .args(["export", "--listen", &exporter.address.to_string(), "--replay", "/dev/null"])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another program does") && said.contains("--listen"), "{said}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for address in ["9435", "localhost:9435", "127.0.0.1", "127.0.0.1:99999", "*:9435", ""] {
        let output = Command::new(env!("CARGO_BIN_EXE_unionbench"))
            .args(["export", "--listen", address, "--replay", "/dev/null"])
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{address:?}: {said}");
        assert!(said.contains("--listen"), "{address:?}: {said}");
    }
}

fn packaging(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of metrics in a text, without what a histogram adds to them.
fn metrics(text: &str) -> BTreeSet<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = text.match_indices("unionbench_").map(|(at, _)| {
        let name: String = text[at..].chars().take_while(|c| plain(*c)).collect();
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
        base.unwrap_or(name)
    });
    names.collect()
}

#[test]
fn every_metric_of_the_dashboard_is_exported() {
    let exporter = Exporter::start(1, &[]);
    let told = metrics(&exporter.get("/metrics"));
    let dashboard: serde_json::Value =
        serde_json::from_str(&packaging("grafana-dashboard.json")).expect("is JSON");
    let panels = dashboard["panels"].as_array().expect("has panels");
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("has queries"));
    let queries: Vec<&str> = queries.filter_map(|target| target["expr"].as_str()).collect();
    let variables = dashboard["templating"]["list"].as_array().expect("has variables");
    let variables = variables.iter().filter_map(|variable| variable["query"].as_str());
    let named: BTreeSet<String> =
        queries.iter().copied().chain(variables).flat_map(metrics).collect();
    assert!(named.len() >= 10, "{named:?}");
    let unknown: Vec<_> = named.difference(&told).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {told:?}");
}

#[test]
fn the_manifest_of_kubernetes_is_yaml_and_asks_for_what_there_is() {
    let documents =
        yaml_rust2::YamlLoader::load_from_str(&packaging("daemonset.yaml")).expect("is YAML");
    let set = documents.iter().find(|d| d["kind"].as_str() == Some("DaemonSet")).expect("is there");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let words = |key: &str| -> Vec<String> {
        let list = container[key].as_vec().expect("a list");
        list.iter().filter_map(|word| word.as_str()).map(str::to_owned).collect()
    };
    let (command, args) = (words("command"), words("args"));
    assert_eq!(command[1], "export");
    assert_eq!(args[1], "$(POD_IP):9435");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"].as_str(), Some("/healthz"));
    let selector = &set["spec"]["selector"]["matchLabels"];
    assert_eq!(selector, &set["spec"]["template"]["metadata"]["labels"]);
}

#[test]
fn systemd_accepts_the_unit() {
    let unit = packaging("unionbench-exporter.service");
    let folder = tempfile::tempdir().expect("a folder");
    // It is looked for where the unit says, and this is where it is.
    let unit = unit.replace("/usr/local/bin/unionbench", env!("CARGO_BIN_EXE_unionbench"));
    let path = folder.path().join("unionbench-exporter.service");
    std::fs::write(&path, unit).expect("writes");
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        skipped("systemd_accepts_the_unit", "systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let own: Vec<&str> = said.lines().filter(|l| l.contains("unionbench-exporter")).collect();
    assert!(output.status.success() && own.is_empty(), "{said}");
}

/// Prometheus, where xtask's set-up or the user put it.
fn prometheus() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let named = std::env::var_os("UNIONBENCH_PROMETHEUS").map(PathBuf::from);
    let places = [tools.join("prometheus/usr/bin/prometheus"), "/usr/bin/prometheus".into()];
    named.into_iter().chain(places).find(|path| path.is_file())
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_and_answers() {
    let Some(program) = prometheus() else {
        let reason = "there is no Prometheus; `cargo xtask test` unpacks Debian's, as does \
                      `apt-get download prometheus && dpkg -x prometheus_*.deb target/tools/prometheus`";
        skipped("a_real_prometheus_scrapes_and_answers", reason);
        return;
    };
    let exporter = Exporter::start(7, &[]);
    for native in [false, true] {
        let value = scraped(&program, &exporter, native);
        assert_eq!(value, "7", "native histograms: {native}");
    }
}

/// What Prometheus says of the number of latencies it scraped.
fn scraped(program: &Path, exporter: &Exporter, native: bool) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "scrape_configs:\n- job_name: unionbench\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['{}']\n",
        exporter.address
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).expect("writes");
    // A port that was free a moment ago: it cannot tell one that it took itself.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let address = port.expect("a free port");
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if native {
        command.arg("--enable-feature=native-histograms");
    }
    let _prometheus = Ended(command.spawn().expect("Prometheus starts"));
    let query = match native {
        true => "sum(histogram_count(unionbench_event_latency_seconds))",
        false => "sum(unionbench_event_latency_seconds_count)",
    };
    let query = query.replace('(', "%28").replace(')', "%29");
    let mut value = None;
    wait_for("an answer of Prometheus", || {
        std::thread::park_timeout(Duration::from_millis(200));
        value = answer(address, &query);
        value.is_some()
    });
    value.unwrap_or_default()
}

fn answer(address: SocketAddr, query: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request =
        format!("GET /api/v1/query?query={query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    // It is sent in one chunk, whose length stands around the object.
    let json: serde_json::Value =
        serde_json::from_str(&body[body.find('{')?..=body.rfind('}')?]).ok()?;
    json["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
}
