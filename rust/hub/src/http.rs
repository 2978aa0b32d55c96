//! Requests to the Hub. The token goes to the endpoint and to no other host, whatever a redirect says; a busy or
//! failing server is asked again, after as long as it says.

use crate::repo::Repo;
use crate::settings::Settings;
use polmrs_core::{Ctl, Error, Result};
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};
use ureq::http::Response;
use ureq::{Agent, Body};

/// How often a request is made before its failure counts.
const TRIES: u32 = 4;
/// The first pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: u64 = 300;
/// Steps from one address to the next.
const HOPS: usize = 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The headers alone; a redirect to another host is not followed, since it has what the Hub says of a file.
    Head,
    /// The body, from a byte on, up to a byte that is left out.
    Get(u64, Option<u64>),
}

/// What came back.
pub(crate) struct Answer {
    response: Response<Body>,
    /// Headers of the Hub itself, which stand on the redirect: the etag and size of the file that it leads to.
    linked: [Option<String>; 2],
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The name of the file's bytes: their SHA-256 where they are in large-file storage.
    pub(crate) fn etag(&self) -> Option<&str> {
        let etag = self.linked[0].as_deref().or_else(|| self.header("etag"))?;
        Some(etag.trim_start_matches("W/").trim_matches('"'))
    }

    /// The size of the whole file.
    pub(crate) fn size(&self) -> Option<u64> {
        let whole = || self.header("content-range")?.rsplit_once('/')?.1.parse().ok();
        let length = || self.header("content-length").filter(|_| self.status() == 200)?.parse().ok();
        self.linked[1].as_deref().and_then(|size| size.parse().ok()).or_else(whole).or_else(length)
    }

    /// The first byte of the body within the file: 0, unless the server keeps to the range.
    pub(crate) fn first(&self) -> u64 {
        let start = || self.header("content-range")?.strip_prefix("bytes ")?.split('-').next()?.parse().ok();
        if self.status() == 206 { start().unwrap_or(u64::MAX) } else { 0 }
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn body(self) -> impl Read {
        self.response.into_body().into_reader()
    }
}

/// Asks one Hub about one model.
pub(crate) struct Http {
    agent: Agent,
    settings: Settings,
    repo: Repo,
}

impl Http {
    pub(crate) fn new(settings: &Settings, repo: &Repo) -> Http {
        let agent = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .user_agent(concat!("polmrs/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Http { agent, settings: settings.clone(), repo: repo.clone() }
    }

    /// Asks until there is an answer. Status 200, 206, 416 and, for [`Ask::Head`], a redirect to another host are answers.
    pub(crate) fn send(&self, url: &str, ask: Ask, ctl: &Ctl) -> Result<Answer> {
        let mut pause = PAUSE;
        for left in (0..TRIES).rev() {
            ctl.check()?;
            let (failure, asked) = match self.once(url, ask) {
                Ok(answer) => match answer.status() {
                    200 | 206 | 416 => return Ok(answer),
                    300..400 if ask == Ask::Head => return Ok(answer),
                    status @ (429 | 500..) => {
                        let asked = answer.header("retry-after").and_then(|text| text.trim().parse().ok());
                        (io::Error::other(format!("the server answers {status}, still after {TRIES} tries")), asked)
                    }
                    status => return Err(self.refused(status, url, &answer)),
                },
                Err(failure) => (failure, None),
            };
            if left == 0 {
                return Err(self.unreachable(url, failure));
            }
            wait(asked.map_or(pause, |seconds: u64| Duration::from_secs(seconds.min(LONGEST_PAUSE))), ctl)?;
            pause *= 2;
        }
        Err(Error::Internal("a request without a try".into()))
    }

    /// One request, with the redirects that it takes.
    fn once(&self, url: &str, ask: Ask) -> io::Result<Answer> {
        let mut url = url.to_owned();
        let mut linked = [None, None];
        for _ in 0..HOPS {
            let mut request = match ask {
                Ask::Head => self.agent.head(&url),
                Ask::Get(..) => self.agent.get(&url),
            };
            request = request.header("accept-encoding", "identity");
            match ask {
                Ask::Get(first, Some(end)) => request = request.header("range", format!("bytes={first}-{}", end - 1)),
                Ask::Get(first, None) if first > 0 => request = request.header("range", format!("bytes={first}-")),
                Ask::Get(..) | Ask::Head => {}
            }
            let home = origin(&url) == origin(&self.settings.endpoint);
            if let Some(token) = self.settings.token.as_ref().filter(|_| home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| error.into_io())?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            for (slot, name) in linked.iter_mut().zip(["x-linked-etag", "x-linked-size"]).filter(|_| home) {
                *slot = slot.take().or_else(|| header(name).map(str::to_owned));
            }
            let next = match (response.status().as_u16(), header("location")) {
                (301 | 302 | 303 | 307 | 308, Some(next)) => joined(&url, next)?,
                _ => return Ok(Answer { response, linked }),
            };
            if ask == Ask::Head && origin(&next) != origin(&url) {
                return Ok(Answer { response, linked });
            }
            url = next;
        }
        Err(io::Error::other(format!("more than {HOPS} redirects")))
    }

    /// What the Hub's refusal means for the person who asked.
    fn refused(&self, status: u16, url: &str, answer: &Answer) -> Error {
        let (id, endpoint) = (&self.repo.id, &self.settings.endpoint);
        let token = match self.settings.token {
            Some(_) => "the token in use may not read it",
            None => "set HF_TOKEN, or run `hf auth login`",
        };
        Error::NotFound(match (status, answer.header("x-error-code").unwrap_or_default()) {
            (401 | 403, "GatedRepo") => {
                format!("'{id}' is gated: accept its terms at {endpoint}/{id}; then {token}")
            }
            (404, "RevisionNotFound") => format!("'{id}' has no revision '{}' at {endpoint}", self.repo.revision()),
            (404, "EntryNotFound") => format!("{url}: '{id}' has no such file"),
            (401 | 403 | 404, _) => format!(
                "'{id}': no such local folder, and {endpoint} answers {status}: there is no such model, or it is private \
                 ({token})"
            ),
            _ => format!("{url}: the server answers {status}"),
        })
    }

    /// There was no answer.
    fn unreachable(&self, url: &str, source: io::Error) -> Error {
        let cache = self.settings.cache.display();
        let message = format!(
            "{source}; '{}' is no local folder and not whole in the cache {cache} (HF_HUB_OFFLINE=1 asks the cache alone)",
            self.repo
        );
        Error::Io { path: url.into(), action: "reach", source: io::Error::new(source.kind(), message) }
    }
}

/// Sleeps, but not through a cancellation.
fn wait(pause: Duration, ctl: &Ctl) -> Result<()> {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        ctl.check()?;
        thread::sleep(Duration::from_millis(20).min(until - Instant::now().min(until)));
    }
    ctl.check()
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> String {
    let end = url.find("://").map_or(0, |at| at + 3);
    let len = url[end..].find(['/', '?', '#']).unwrap_or(url.len() - end);
    url[..end + len].to_ascii_lowercase()
}

/// Where a redirect leads: never from an encrypted connection to a plain one.
fn joined(url: &str, location: &str) -> io::Result<String> {
    let scheme = url.split("://").next().unwrap_or_default();
    let next = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        origin(url) + location
    } else {
        location.to_owned()
    };
    let plain = next.starts_with("http://") && scheme != "https";
    if plain || next.starts_with("https://") {
        return Ok(next);
    }
    Err(io::Error::other(format!("a redirect to '{next}' is not followed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_ends_where_the_path_begins() {
        assert_eq!(origin("HTTPS://Host.co:8/a/b?c"), "https://host.co:8");
        assert_eq!(origin("https://host.co@evil.org/a"), "https://host.co@evil.org");
        assert_eq!(origin("http://host?x"), "http://host");
    }

    #[test]
    fn a_redirect_never_leaves_encryption() {
        assert_eq!(joined("https://a/b/c", "/d").unwrap(), "https://a/d");
        assert_eq!(joined("https://a/b", "//c/d").unwrap(), "https://c/d");
        assert_eq!(joined("http://a/b", "http://c/d").unwrap(), "http://c/d");
        for location in ["http://a/b", "file:///etc/passwd", "d"] {
            assert!(joined("https://a/b", location).is_err(), "{location}");
        }
    }
}
