//! Chooses the media type of a response by the `Accept` of its request (RFC 9110, section 12.5.1).

use std::cmp::Reverse;

use axum::http::{HeaderMap, header};

/// One range of `Accept`: its type and subtype in lower case, and its weight in thousandths.
#[derive(Debug)]
struct Range {
    media_type: String,
    subtype: String,
    weight: u16,
}

impl Range {
    /// Parses `type/subtype;q=0.5`. `None` if that is not its form. Other parameters than the weight are passed over.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_range = parts.next()?.to_ascii_lowercase();
        let (media_type, subtype) = media_range.split_once('/')?;
        let weight = parts.find_map(|parameter| parameter.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('='));
        let weight = weight.map_or(Some(1_000), |text| thousandths(text.trim()))?;
        Some(Self { media_type: media_type.to_owned(), subtype: subtype.to_owned(), weight })
    }

    /// How closely the range names a media type: more for more; `None` if it does not.
    fn matches(&self, media_type: &str) -> Option<u8> {
        let (media_type, subtype) = media_type.split_once('/')?;
        match (self.media_type.as_str(), self.subtype.as_str()) {
            ("*", "*") => Some(0),
            (range, "*") if range == media_type => Some(1),
            (range, of) if (range, of) == (media_type, subtype) => Some(2),
            _ => None,
        }
    }
}

/// A weight: 0 to 1, with three digits at most after the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let weight = format!("{whole}{fraction:0<3}").parse().ok()?;
    (weight <= 1_000).then_some(weight)
}

/// Returns what is offered under the media type of the greatest weight; `None` if none is acceptable. Of the same weight
/// counts the one that is named most closely, then the one named first, then the one offered first. Without `Accept`,
/// everything is acceptable.
pub(crate) fn choose<T: Copy>(headers: &HeaderMap, offers: &[(&str, T)]) -> Option<T> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let texts: Vec<&str> =
        values.flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        return offers.first().map(|(_, offer)| *offer);
    }
    let ranges: Vec<Range> = texts.into_iter().filter_map(Range::parse).collect();
    let rank = |media_type: &str| {
        // The closest range says the weight, and of several equally close ones the first.
        let matching = ranges.iter().enumerate().filter_map(|(at, range)| Some((range.matches(media_type)?, at)));
        let (closeness, at) = matching.max_by_key(|(closeness, at)| (*closeness, Reverse(*at)))?;
        let weight = ranges[at].weight;
        (weight > 0).then_some((weight, closeness, Reverse(at)))
    };
    let ranked = offers.iter().enumerate().filter_map(|(at, (name, offer))| Some(((rank(name)?, Reverse(at)), *offer)));
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, offer)| offer)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const OFFERS: [(&str, &str); 3] = [("application/json", "json"), ("text/csv", "csv"), ("text/plain", "text")];

    fn of(accept: &[&'static str]) -> Option<&'static str> {
        let values = accept.iter().map(|value| (header::ACCEPT, HeaderValue::from_static(value)));
        choose(&HeaderMap::from_iter(values), &OFFERS)
    }

    #[test]
    fn the_greatest_weight_decides() {
        for (accept, chosen) in [
            ("text/csv", Some("csv")),
            ("TEXT/CSV", Some("csv")),
            ("*/*", Some("json")),
            ("text/*", Some("csv")),
            ("", Some("json")),
            ("application/json;q=0.1, text/csv;q=0.2", Some("csv")),
            ("application/json;q=0.2, text/csv;q=0.1", Some("json")),
            ("application/json; q=0.999, text/csv; q=1.000", Some("csv")),
            ("text/html, application/json;q=0.9, */*;q=0.8", Some("json")),
            // A type that is excluded is excluded, whatever a wider range says; and the other way round.
            ("application/json;q=0, */*", Some("csv")),
            ("text/*;q=0, */*;q=0.1", Some("json")),
            ("text/*;q=0, text/plain", Some("text")),
            ("text/csv;q=0", None),
            ("*/*;q=0", None),
            ("*/*;q=0.000", None),
            // Equal weights: named more closely, then named first.
            ("*/*, text/csv", Some("csv")),
            ("text/plain, text/csv", Some("text")),
            // Other parameters do not matter; what is malformed counts for nothing.
            ("text/csv;header=present;q=0.5, application/json;q=0.4", Some("csv")),
            ("text/csv;q=2, application/json;q=0.1", Some("json")),
            ("text/csv;q=0.1234", None),
            ("csv", None),
            ("image/png", None),
        ] {
            assert_eq!(of(&[accept]), chosen, "{accept}");
        }
        assert_eq!(of(&[]), Some("json"));
        assert_eq!(of(&["application/json;q=0.1", "text/csv;q=0.2"]), Some("csv"), "several lines are one list");
    }
}
