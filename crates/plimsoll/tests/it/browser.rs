//! A real browser for tests: headless Chromium, driven over its DevTools protocol.
//!
//! The protocol runs over two pipes: messages are JSON, each ended by a zero byte. One browser serves several
//! pages in turn, each in a tab of its own.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The pipes are descriptors 3 and 4 of the browser.
const START: &str = "exec chromium --headless --no-sandbox --disable-dev-shm-usage --remote-debugging-pipe \
                     --user-data-dir=\"$0\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";

/// A running browser, which is ended when this is dropped.
pub(crate) struct Browser {
    process: Child,
    calls: u64,
    answers: BufReader<ChildStdout>,
    /// Events that no one has taken, in order.
    events: Vec<Value>,
}

impl Browser {
    /// Starts a browser with this folder for its own files.
    pub(crate) fn start(profile: &Path) -> Browser {
        let mut process = Command::new("sh")
            .args(["-c", START, profile.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Browser { process, calls: 0, answers, events: Vec::new() }
    }

    /// The next message.
    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.answers.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "is chromium installed? scripts/test installs it");
        serde_json::from_slice(&message).unwrap()
    }

    /// Calls a method; its events are kept.
    fn call(&mut self, session: &str, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": params });
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.process.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
        loop {
            let mut answer = self.read();
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipes do.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A page in a tab, which is closed when this is dropped.
pub(crate) struct Tab<'b> {
    browser: &'b mut Browser,
    target: String,
    session: String,
    url: String,
}

impl Tab<'_> {
    /// Opens a blank tab of this size.
    pub(crate) fn new(browser: &mut Browser, width: u32, height: u32) -> Tab<'_> {
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let made = browser.call("", "Target.createTarget", json!({ "url": "about:blank" }));
        let target = text(&made["targetId"]);
        let attach = json!({ "targetId": target, "flatten": true });
        let session = text(&browser.call("", "Target.attachToTarget", attach)["sessionId"]);
        let mut tab = Tab { browser, target, session, url: String::new() };
        for domain in ["Page", "Runtime", "Network", "Log"] {
            tab.call(&format!("{domain}.enable"), json!({}));
        }
        tab.resize(width, height);
        tab
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.browser.call(&self.session, method, params)
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Opens a page, and returns when it is loaded and its scripts have run.
    pub(crate) fn open(&mut self, url: &str) {
        self.url = url.to_string();
        self.call("Page.navigate", json!({ "url": url }));
        let is_loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.browser.events.iter().any(is_loaded) {
            let event = self.browser.read();
            self.browser.events.push(event);
        }
    }

    /// The value of an expression; a promise is awaited.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    pub(crate) fn text(&mut self, expression: &str) -> String {
        let value = self.eval(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression}: {value}")).to_string()
    }

    /// Waits until an expression holds; the page's own frames set the pace.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        while self.eval(&format!(
            "new Promise((done) => requestAnimationFrame(() => done({expression})))"
        )) != true
        {}
    }

    /// Presses a key: `Tab`, `ArrowRight`, `Enter`, or a character.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "ArrowLeft" => (37, ""),
            "ArrowRight" => (39, ""),
            "End" => (35, ""),
            other => (u32::from(other.as_bytes()[0]), other),
        };
        let down =
            json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", up);
    }

    /// Drags over the middle of an element, from one share of its width to another.
    pub(crate) fn drag(&mut self, selector: &str, from: f64, to: f64) {
        let find = format!(
            "(() => {{ const one = document.querySelector('{selector}'); one.scrollIntoView({{block: 'center'}}); \
             const {{x, y, width, height}} = one.getBoundingClientRect(); return [x, y + height / 2, width]; }})()"
        );
        let place = self.eval(&find);
        let [x, y, width] = [0, 1, 2].map(|at: usize| place[at].as_f64().unwrap());
        for (kind, at) in [
            ("Moved", from),
            ("Pressed", from),
            ("Moved", (from + to) / 2.0),
            ("Moved", to),
            ("Released", to),
        ] {
            let event = json!({
                "type": format!("mouse{kind}"), "x": x + width * at, "y": y, "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// What must not happen: exceptions, messages on the console, violations of the page's policy, and
    /// requests other than that for the page.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // Events of what has happened are sent before the answer.
        self.eval("0");
        let (session, url) = (self.session.clone(), self.url.clone());
        let mut found = Vec::new();
        for event in self.browser.events.iter().filter(|event| event["sessionId"] == *session) {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => {
                    found.push(params.to_string());
                }
                "Network.requestWillBeSent" if params["request"]["url"] != *url => {
                    found.push(format!("request: {}", params["request"]["url"]));
                }
                _ => (),
            }
        }
        found
    }
}

impl Drop for Tab<'_> {
    fn drop(&mut self) {
        let target = json!({ "targetId": self.target });
        if !std::thread::panicking() {
            self.browser.call("", "Target.closeTarget", target);
        }
        self.browser.events.clear();
    }
}
