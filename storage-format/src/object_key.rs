//! Names of objects in the store, as one type with one builder and one parser (`docs/object-keys.md`).
//!
//! Invariant: a text is an object key only if it is exactly what the builder writes for the parsed value, so that an
//! object never has two names and a name never leaves its organisation's prefix.

use std::fmt;
use std::str::FromStr;

use crate::{FileKind, FormatError, FormatErrorKind, ManifestVersion, OrgId, SegmentId, Window};

/// Length of the longest object key, that of a conflicts object, in bytes.
pub const OBJECT_KEY_BYTES_MAX: usize = 96;

/// Name of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// A segment: readings of one organisation and one window.
    Segment {
        /// Organisation that owns the object.
        org: OrgId,
        /// Window that contains all readings of the segment.
        window: Window,
        /// Id of the object.
        id: SegmentId,
    },
    /// The conflicts that a flush found in one window.
    Conflicts {
        /// Organisation that owns the object.
        org: OrgId,
        /// Window of the conflicting readings.
        window: Window,
        /// Id of the object.
        id: SegmentId,
    },
    /// Values that filled empty channels of older readings of one window.
    Fills {
        /// Organisation that owns the object.
        org: OrgId,
        /// Window of the readings.
        window: Window,
        /// Id of the object.
        id: SegmentId,
    },
    /// Aggregates of a readings segment.
    Rollup {
        /// Organisation that owns the object.
        org: OrgId,
        /// Window of the segment.
        window: Window,
        /// Id of the object, not of the segment.
        id: SegmentId,
    },
    /// One commit of a manifest.
    Manifest {
        /// Organisation that owns the object.
        org: OrgId,
        /// Version, from 1 without gaps.
        version: ManifestVersion,
    },
    /// An organisation's key, wrapped by the master key.
    OrgKey {
        /// Organisation that owns the object.
        org: OrgId,
        /// Version of the key, from 1.
        version: u32,
    },
}

impl ObjectKey {
    /// Prefix of all objects of all organisations.
    pub const ORGS: &'static str = "orgs";

    /// Returns the prefix of all objects of this organisation.
    #[must_use]
    pub fn org_prefix(org: OrgId) -> String {
        format!("orgs/{org}")
    }

    /// Returns the prefix of the organisation's segments.
    #[must_use]
    pub fn segments_prefix(org: OrgId) -> String {
        format!("orgs/{org}/segments")
    }

    /// Returns the prefix of the organisation's conflicts objects.
    #[must_use]
    pub fn conflicts_prefix(org: OrgId) -> String {
        format!("orgs/{org}/conflicts")
    }

    /// Returns the prefix of the organisation's fills objects.
    #[must_use]
    pub fn fills_prefix(org: OrgId) -> String {
        format!("orgs/{org}/fills")
    }

    /// Returns the prefix of the organisation's rollups.
    #[must_use]
    pub fn rollups_prefix(org: OrgId) -> String {
        format!("orgs/{org}/rollups")
    }

    /// Returns the prefix of the organisation's manifest objects, whose names sort by version.
    #[must_use]
    pub fn manifest_prefix(org: OrgId) -> String {
        format!("orgs/{org}/manifest")
    }

    /// Returns the prefix of the organisation's wrapped keys.
    #[must_use]
    pub fn keys_prefix(org: OrgId) -> String {
        format!("orgs/{org}/keys")
    }

    /// Returns the organisation that owns the object.
    #[must_use]
    pub const fn org(&self) -> OrgId {
        match self {
            Self::Segment { org, .. }
            | Self::Conflicts { org, .. }
            | Self::Fills { org, .. }
            | Self::Rollup { org, .. }
            | Self::Manifest { org, .. }
            | Self::OrgKey { org, .. } => *org,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        if parts.next()? != Self::ORGS {
            return None;
        }
        let org: OrgId = parts.next()?.parse().ok()?;
        let kind = parts.next()?;
        let first = parts.next()?;
        let second = parts.next();
        if parts.next().is_some() {
            return None;
        }
        match (kind, second) {
            ("segments" | "conflicts" | "fills" | "rollups", Some(name)) => {
                let window: Window = first.parse().ok()?;
                let id: SegmentId = name.strip_suffix(".parquet")?.parse().ok()?;
                Some(match kind {
                    "segments" => Self::Segment { org, window, id },
                    "conflicts" => Self::Conflicts { org, window, id },
                    "fills" => Self::Fills { org, window, id },
                    _ => Self::Rollup { org, window, id },
                })
            }
            ("manifest", None) => {
                let version = ManifestVersion::new(decimal(first, 20)?);
                (version > ManifestVersion::ZERO).then_some(Self::Manifest { org, version })
            }
            ("keys", None) => {
                let version = u32::try_from(decimal(first, 10)?).ok()?;
                (version > 0).then_some(Self::OrgKey { org, version })
            }
            _ => None,
        }
    }
}

fn decimal(text: &str, digits: usize) -> Option<u64> {
    // `parse` accepts a sign, but the text form has none.
    if text.len() == digits && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment { org, window, id } => write!(f, "orgs/{org}/segments/{window}/{id}.parquet"),
            Self::Conflicts { org, window, id } => write!(f, "orgs/{org}/conflicts/{window}/{id}.parquet"),
            Self::Fills { org, window, id } => write!(f, "orgs/{org}/fills/{window}/{id}.parquet"),
            Self::Rollup { org, window, id } => write!(f, "orgs/{org}/rollups/{window}/{id}.parquet"),
            Self::Manifest { org, version } => write!(f, "orgs/{org}/manifest/{:020}", version.get()),
            Self::OrgKey { org, version } => write!(f, "orgs/{org}/keys/{version:010}"),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let error = || {
            let shown: String = text.chars().take(OBJECT_KEY_BYTES_MAX).collect();
            FormatError::new(
                FileKind::ObjectKey,
                FormatErrorKind::Invalid,
                0,
                format!("{shown:?} is not the name of an icecore object"),
            )
        };
        if text.len() > OBJECT_KEY_BYTES_MAX {
            return Err(error());
        }
        let key = Self::parse(text).ok_or_else(error)?;
        // Hexadecimal digits parse in either case; only the canonical form is a key.
        if key.to_string() == text { Ok(key) } else { Err(error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;
    use proptest::prelude::*;

    const ORG: &str = "00000000000000a1";
    const ID: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn every_kind_has_its_text_form() {
        let org: OrgId = ORG.parse().expect("an org");
        let window: Window = "2024050100-2024060100".parse().expect("a window");
        let id: SegmentId = ID.parse().expect("an id");
        for (key, text) in [
            (ObjectKey::Segment { org, window, id }, format!("orgs/{ORG}/segments/2024050100-2024060100/{ID}.parquet")),
            (
                ObjectKey::Conflicts { org, window, id },
                format!("orgs/{ORG}/conflicts/2024050100-2024060100/{ID}.parquet"),
            ),
            (ObjectKey::Fills { org, window, id }, format!("orgs/{ORG}/fills/2024050100-2024060100/{ID}.parquet")),
            (ObjectKey::Rollup { org, window, id }, format!("orgs/{ORG}/rollups/2024050100-2024060100/{ID}.parquet")),
            (
                ObjectKey::Manifest { org, version: ManifestVersion::new(7) },
                format!("orgs/{ORG}/manifest/00000000000000000007"),
            ),
            (ObjectKey::OrgKey { org, version: 1 }, format!("orgs/{ORG}/keys/0000000001")),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse::<ObjectKey>(), Ok(key));
            assert_eq!(key.org(), org);
            assert!(text.len() <= OBJECT_KEY_BYTES_MAX);
            assert!(text.starts_with(&format!("{}/", ObjectKey::org_prefix(org))));
        }
    }

    #[test]
    fn page_lists_the_same_forms() {
        let page = include_str!("../docs/object-keys.md");
        let org = OrgId::MIN;
        for prefix in [
            ObjectKey::segments_prefix(org) + "/<window>/<segment>.parquet",
            ObjectKey::conflicts_prefix(org) + "/<window>/<segment>.parquet",
            ObjectKey::fills_prefix(org) + "/<window>/<segment>.parquet",
            ObjectKey::rollups_prefix(org) + "/<window>/<segment>.parquet",
            ObjectKey::manifest_prefix(org) + "/<version>",
            ObjectKey::keys_prefix(org) + "/<key version>",
            format!("at most {OBJECT_KEY_BYTES_MAX} bytes"),
        ] {
            let form = prefix.replace(&org.to_string(), "<org>");
            assert!(page.contains(&form), "{form}");
        }
    }

    #[test]
    fn other_texts_are_rejected() {
        for bad in [
            String::new(),
            "/".into(),
            format!("/orgs/{ORG}/keys/0000000001"),
            format!("orgs/{ORG}/keys/0000000001/"),
            format!("orgs/{ORG}/keys/0000000000"),
            format!("orgs/{ORG}/keys/4294967296"),
            format!("orgs/{ORG}/keys/1"),
            format!("orgs/{ORG}/keys/+000000001"),
            format!("orgs/{ORG}/manifest/00000000000000000000"),
            format!("orgs/{ORG}/manifest/99999999999999999999"),
            format!("orgs/{ORG}/manifest/../manifest/00000000000000000007"),
            format!("orgs/{ORG}/../{ORG}/keys/0000000001"),
            "orgs/../keys/0000000001".into(),
            format!("orgs/{}/keys/0000000001", ORG.to_uppercase()),
            "orgs/0000000000000000/keys/0000000001".into(),
            format!("orgs/{ORG}//0000000001"),
            format!("orgs/{ORG}/segments/2024050100-2024060100/{}.parquet", ID.to_uppercase()),
            format!("orgs/{ORG}/segments/2024050100-2024060100/{ID}"),
            format!("orgs/{ORG}/segments/2024060100-2024050100/{ID}.parquet"),
            format!("orgs/{ORG}/segments/2024050100-2024060100/{ID}.parquet#1"),
            format!("orgs/{ORG}/segments/{ID}.parquet"),
            format!("Orgs/{ORG}/keys/0000000001"),
            "é".repeat(60),
        ] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
    }

    prop_compose! {
        fn any_key()(kind in 0..6_u8, org in 1..=u64::MAX, number in 1..=u64::MAX, id in 1..=u128::MAX,
            time in Millis::MIN.get()..=Millis::MAX.get()) -> ObjectKey {
            let org = OrgId::new(org).expect("not zero");
            let id = SegmentId::new(id).expect("not zero");
            let window = Window::month_of(Millis::new(time).expect("in range"));
            match kind {
                0 => ObjectKey::Segment { org, window, id },
                1 => ObjectKey::Conflicts { org, window, id },
                2 => ObjectKey::Fills { org, window, id },
                3 => ObjectKey::Rollup { org, window, id },
                4 => ObjectKey::Manifest { org, version: ManifestVersion::new(number) },
                _ => ObjectKey::OrgKey { org, version: u32::try_from(number >> 32).expect("32 bits").max(1) },
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(key in any_key()) {
            let text = key.to_string();
            prop_assert!(text.len() <= OBJECT_KEY_BYTES_MAX);
            prop_assert_eq!(text.parse::<ObjectKey>(), Ok(key));
        }

        #[test]
        fn one_changed_character_is_another_key_or_none(key in any_key(), at in 0..96_usize, to in any::<char>()) {
            let text: Vec<char> = key.to_string().chars().collect();
            let mut changed = text.clone();
            let at = at % changed.len();
            changed[at] = to;
            let changed: String = changed.into_iter().collect();
            if let Ok(other) = changed.parse::<ObjectKey>() {
                prop_assert_eq!(other.to_string(), changed);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            if let Ok(key) = text.parse::<ObjectKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
