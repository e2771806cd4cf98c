//! Trace context: read from W3C's `traceparent` or AWS's `X-Amzn-Trace-Id`, else started here.
//!
//! See <https://www.w3.org/TR/trace-context/> and
//! <https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>.

use std::fmt;

use axum::http::HeaderMap;

/// The header of AWS's load balancers and gateways.
const AMZN: &str = "x-amzn-trace-id";
/// Longer headers are ignored; the gateway's has about 100 bytes.
const MAX_HEADER_BYTES: usize = 512;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TRACEPARENT_BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// The position of a request or job in a trace. Displays as W3C's `traceparent` for its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The trace id, never 0.
    pub id: u128,
    /// The span id, never 0.
    pub span: u64,
    /// The parent's span id.
    pub parent: Option<u64>,
    /// Whether spans are exported.
    pub sampled: bool,
}

impl Trace {
    /// A new trace.
    pub fn begin() -> Self {
        Self { id: random(), span: random_span(), parent: None, sampled: true }
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random_span(), parent: Some(self.span), ..*self }
    }

    /// The span of a request: from `traceparent`, else from `X-Amzn-Trace-Id`, else a new trace.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let parent = header(headers, "traceparent").and_then(Self::parse).map(|parent| parent.child());
        parent.or_else(|| header(headers, AMZN).and_then(Self::from_amzn)).unwrap_or_else(Self::begin)
    }

    /// Reads a `traceparent`. Later versions may append fields.
    pub fn parse(text: &str) -> Option<Self> {
        let (fields, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
        let mut fields = fields.split('-');
        let version = hex(fields.next()?, 2)?;
        let (id, span, flags) = (hex(fields.next()?, 32)?, hex(fields.next()?, 16)?, hex(fields.next()?, 2)?);
        let ends = rest.is_empty() || version != 0 && rest.starts_with('-');
        if version == 0xff || !ends || fields.next().is_some() {
            return None;
        }
        let span = u64::try_from(span).ok()?;
        let sampled = flags & u128::from(SAMPLED) != 0;
        (id != 0 && span != 0).then_some(Self { id, span, parent: None, sampled })
    }

    /// Reads `Root=1-8 digits-24 digits;Parent=16 digits;Sampled=1`, in any order and among other fields. API Gateway
    /// sends `Root` alone.
    fn from_amzn(text: &str) -> Option<Self> {
        let fields = || text.split(';').filter_map(|pair| pair.trim().split_once('='));
        let field = |name: &str| fields().find(|(key, _)| *key == name).map(|(_, value)| value);
        let mut root = field("Root")?.splitn(3, '-');
        let (version, time, rest) = (root.next()?, root.next()?, root.next()?);
        let id = hex(time, 8)? << 96 | hex(rest, 24)?;
        let parent = field("Parent").and_then(|parent| u64::try_from(hex(parent, 16)?).ok()).filter(|span| *span != 0);
        let sampled = field("Sampled") != Some("0");
        (version == "1" && id != 0).then(|| Self { id, span: random_span(), parent, sampled })
    }

    /// The trace id as in logs.
    pub fn id(&self) -> String {
        format!("{:032x}", self.id)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.span, u8::from(self.sampled) * SAMPLED)
    }
}

/// The `Root` of `X-Amzn-Trace-Id`, which X-Ray and the gateway's logs are searched by.
pub(crate) fn amzn_root(headers: &HeaderMap) -> Option<String> {
    let id = header(headers, AMZN).and_then(Trace::from_amzn)?.id();
    Some(format!("1-{}-{}", &id[..8], &id[8..]))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).filter(|value| value.len() <= MAX_HEADER_BYTES)?.to_str().ok()
}

/// Parses exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (lower && text.len() == digits).then(|| u128::from_str_radix(text, 16).ok())?
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // Without random numbers traces can't be told apart, but requests must still be served.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u128::from_le_bytes(bytes).max(1)
}

fn random_span() -> u64 {
    u64::try_from(random() >> 64).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";

    fn of(pairs: &[(&'static str, &str)]) -> Trace {
        let pairs = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_str(value).unwrap()));
        Trace::from_headers(&pairs.collect())
    }

    #[test]
    fn parses_traceparent_strictly() {
        let read = Trace::parse(PARENT).expect("example of the W3C specification");
        assert_eq!((read.to_string().as_str(), read.sampled), (PARENT, true));
        assert!(!Trace::parse(&PARENT.replace("-01", "-00")).unwrap().sampled);
        assert!(Trace::parse(&PARENT.replacen("00", "cc", 1).replace("-01", "-09-later-fields")).unwrap().sampled);
        for wrong in [
            "",
            "00",
            &PARENT[1..],
            &format!("{PARENT}-"),
            &format!("{PARENT} "),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replacen("00", "01", 1).replace("-01", "-01x"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace("4bf9", "4bg9"),
            &PARENT.replace("4bf9", "+bf9"),
            &PARENT.replace("4bf9", "é9"),
        ] {
            assert_eq!(Trace::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn continues_trace_of_headers() {
        let child = of(&[("traceparent", PARENT), (AMZN, ROOT)]);
        assert_eq!((child.id(), child.parent), (PARENT[3..35].to_owned(), Some(0x00f0_67aa_0ba9_02b7)));
        assert_ne!(Some(child.span), child.parent);
        let gateway = of(&[(AMZN, ROOT), ("traceparent", "nonsense")]);
        assert_eq!((gateway.id(), gateway.parent), ("5759e988bd862e3fe1be46a994272793".to_owned(), None));
        let balancer = of(&[(
            AMZN,
            &format!("Self=1-67891234-12456789abcdef012345678a;{ROOT};Parent=53995c3f42cd8ad8;Sampled=0"),
        )]);
        assert_eq!((balancer.id, balancer.parent, balancer.sampled), (gateway.id, Some(0x5399_5c3f_42cd_8ad8), false));
        let long = format!("{ROOT};{}", "x".repeat(MAX_HEADER_BYTES));
        for nonsense in
            ["Root=2-5759e988-bd862e3fe1be46a994272793", "Root=1-5759e988", "Root=", "5759e988", long.as_str()]
        {
            let new = of(&[(AMZN, nonsense)]);
            assert!(new.parent.is_none() && new.id != gateway.id && new.sampled, "{nonsense}");
        }
        assert_ne!(of(&[]).id, of(&[]).id);
    }

    proptest! {
        #[test]
        fn accepts_any_header_text(text in "\\PC{0,600}", fields in "[RootParentSmpled=;1-9a-f-]{0,120}") {
            for text in [&text, &fields] {
                let _ = (Trace::parse(text), Trace::from_amzn(text));
            }
        }

        #[test]
        fn traceparent_round_trips(id in 1_u128.., span in 1_u64.., sampled: bool) {
            let trace = Trace { id, span, parent: None, sampled };
            prop_assert_eq!(Trace::parse(&trace.to_string()), Some(trace));
        }
    }
}
