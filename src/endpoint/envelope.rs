//! What goes over the wire, as values and as JSON. No I/O.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::EndpointError;

/// The deepest data that the parser accepts: its own limit, less one level for the envelope.
const DEEPEST: usize = 126;

/// A message between named programs.
///
/// On the wire it is a JSON object `{"action": …, "from": …, "data": …}` in an ordinary frame.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Envelope {
    /// What it is about.
    pub action: String,
    /// The sender's name, as the sender says: nobody has verified it. The system decides by user who may
    /// connect at all.
    pub from: String,
    /// The message's data; [`Value::Null`] if there is none.
    pub data: Value,
    /// The request's number, if it is one.
    pub(super) id: Option<u64>,
}

impl Envelope {
    /// The data, converted to a type of the application's.
    ///
    /// # Errors
    ///
    /// The data does not fit the type: serde_json's error says where.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.data)
    }

    /// Whether the sender waits for a reply.
    pub fn wants_reply(&self) -> bool {
        self.id.is_some()
    }

    /// An envelope that is about to be sent.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Data`]
    pub(super) fn new(
        from: &str,
        action: &str,
        data: impl Serialize,
        id: Option<u64>,
    ) -> Result<Self, EndpointError> {
        let unfit = |reason| EndpointError::Data {
            action: action.into(),
            reason,
        };
        let data = serde_json::to_value(data).map_err(|e| unfit(e.to_string()))?;
        readable(&data).map_err(unfit)?;
        Ok(Envelope {
            action: action.into(),
            from: from.into(),
            data,
            id,
        })
    }

    pub(super) fn encode(&self) -> Bytes {
        let Envelope { action, from, .. } = self;
        encode(&SentFields {
            action: Some(action),
            data: Some(&self.data),
            id: self.id,
            ..SentFields::from(from)
        })
    }
}

/// Checks that the other side can read the data.
///
/// # Errors
///
/// Why it cannot.
pub(super) fn readable(data: &Value) -> Result<(), String> {
    match depth(data) {
        0..=DEEPEST => Ok(()),
        _ => Err(format!("it is nested more than {DEEPEST} deep")),
    }
}

/// The answer to a request.
pub(super) fn reply(from: &str, action: &str, id: u64, outcome: Result<&Value, &str>) -> Bytes {
    encode(&SentFields {
        action: Some(action),
        data: outcome.ok(),
        error: outcome.err(),
        reply: Some(id),
        ..SentFields::from(from)
    })
}

/// Asks the other side to send nothing more on this connection, and to end it.
pub(super) fn closing(from: &str) -> Bytes {
    encode(&SentFields {
        closing: Some(true),
        ..SentFields::from(from)
    })
}

/// Says that a message of `size` bytes was left out.
pub(super) fn rejection(from: &str, size: usize, error: &str) -> Bytes {
    encode(&SentFields {
        error: Some(error),
        size: Some(size),
        ..SentFields::from(from)
    })
}

/// A message as it was received.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    Message(Envelope),
    Reply(u64, Result<Value, String>),
    Closing,
    /// The other side has left out a message: its name, the reason, and the message's size.
    Rejection(String, String, Option<u64>),
}

/// Why a message is not an envelope, and its number if it looks like a request.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed {
    pub(super) reason: String,
    pub(super) id: Option<u64>,
}

impl Received {
    pub(super) fn decode(json: &[u8]) -> Result<Self, Malformed> {
        let malformed = |reason: &dyn fmt::Display| Malformed {
            reason: reason.to_string(),
            id: serde_json::from_slice(json)
                .ok()
                .and_then(|it: IdField| it.id),
        };
        // serde would take an array with these fields in order as well.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(malformed(&"it is not a JSON object"));
        }
        let fields: ReceivedFields = serde_json::from_slice(json).map_err(|e| malformed(&e))?;
        if let Some(id) = fields.reply {
            let outcome = fields.error.map_or(Ok(fields.data), Err);
            return Ok(Received::Reply(id, outcome));
        }
        if fields.closing == Some(true) {
            return Ok(Received::Closing);
        }
        let missing = |field| malformed(&format_args!("the field `{field}` is missing"));
        if let (None, Some(error)) = (&fields.action, fields.error) {
            let from = fields.from.ok_or_else(|| missing("from"))?;
            return Ok(Received::Rejection(from, error, fields.size.as_u64()));
        }
        Ok(Received::Message(Envelope {
            action: fields.action.ok_or_else(|| missing("action"))?,
            from: fields.from.ok_or_else(|| missing("from"))?,
            data: fields.data,
            id: fields.id,
        }))
    }
}

#[derive(Deserialize)]
struct ReceivedFields {
    action: Option<String>,
    from: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
    reply: Option<u64>,
    error: Option<String>,
    closing: Option<bool>,
    /// Only a rejection's is used: a message may have anything under this name.
    #[serde(default)]
    size: Value,
}

/// The only field that is needed to refuse a request that cannot be read.
#[derive(Deserialize)]
struct IdField {
    id: Option<u64>,
}

#[derive(Default, Serialize)]
struct SentFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closing: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
}

impl<'a> SentFields<'a> {
    fn from(from: &'a str) -> Self {
        SentFields {
            from,
            ..SentFields::default()
        }
    }
}

fn encode(fields: &SentFields<'_>) -> Bytes {
    // Texts, numbers and a `Value`: JSON can represent all of them, so this cannot fail.
    serde_json::to_vec(fields).unwrap_or_default().into()
}

fn depth(data: &Value) -> usize {
    match data {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(id: Option<u64>) -> Envelope {
        Envelope::new("app.gui", "open", json!({"path": "a\n\u{1F980}"}), id).unwrap()
    }

    #[test]
    fn what_was_encoded_is_decoded_and_is_the_json_that_is_documented() {
        for id in [None, Some(7)] {
            let decoded = Received::decode(&message(id).encode());
            assert_eq!(decoded, Ok(Received::Message(message(id))));
        }
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(
            text(Envelope::new("a", "b", 1, Some(2)).unwrap().encode()),
            r#"{"action":"b","from":"a","data":1,"id":2}"#
        );
        assert_eq!(
            text(reply("a", "b", 2, Ok(&Value::Null))),
            r#"{"action":"b","from":"a","data":null,"reply":2}"#
        );
        assert_eq!(
            text(reply("a", "b", 2, Err("no"))),
            r#"{"action":"b","from":"a","reply":2,"error":"no"}"#
        );
        assert_eq!(text(closing("a")), r#"{"from":"a","closing":true}"#);
        let rejection = rejection("a", 9, "no");
        assert_eq!(
            text(rejection.clone()),
            r#"{"from":"a","error":"no","size":9}"#
        );
        assert_eq!(
            Received::decode(&rejection),
            Ok(Received::Rejection("a".into(), "no".into(), Some(9)))
        );
    }

    #[test]
    fn a_number_arrives_as_it_was_sent_to_the_last_digit() {
        for number in [6.21287610554047e-9, 0.1 + 0.2, f64::MIN_POSITIVE, f64::MAX] {
            let sent = Envelope::new("a", "b", number, None).unwrap();
            let decoded = Received::decode(&sent.encode());
            assert_eq!(decoded, Ok(Received::Message(sent)));
        }
    }

    #[test]
    fn fields_that_need_not_be_there_and_fields_that_nobody_knows_are_taken() {
        let decoded = Received::decode(br#" {"from":"a","new":[1],"action":"b"}"#);
        let expected = Envelope::new("a", "b", (), None).unwrap();
        assert_eq!(decoded, Ok(Received::Message(expected)));
        let decoded = Received::decode(br#"{"from":"a","action":"b","size":"L","error":"no"}"#);
        let expected = Envelope::new("a", "b", (), None).unwrap();
        assert_eq!(decoded, Ok(Received::Message(expected)));
        let decoded = Received::decode(br#"{"reply":1}"#);
        assert_eq!(decoded, Ok(Received::Reply(1, Ok(Value::Null))));
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_the_rule_and_with_the_number_to_answer() {
        for (json, rule, id) in [
            ("", "not a JSON object", None),
            ("5", "not a JSON object", None),
            (r#"["open","app.gui"]"#, "not a JSON object", None),
            (r#"{"action":"open""#, "EOF", None),
            (r#"{"action":5,"from":"a","id":3}"#, "invalid type", Some(3)),
            (r#"{"from":"a","id":4}"#, "`action` is missing", Some(4)),
            (r#"{"action":"open"}"#, "`from` is missing", None),
            (r#"{"error":"no"}"#, "`from` is missing", None),
            (
                r#"{"action":"a","from":"b","id":-1}"#,
                "invalid value",
                None,
            ),
            (r#"{"action":"a","from":"b"} {}"#, "trailing", None),
        ] {
            let malformed = Received::decode(json.as_bytes()).unwrap_err();
            assert!(malformed.reason.contains(rule), "{json}: {malformed:?}");
            assert_eq!(malformed.id, id, "{json}");
        }
        let latin = b"{\"action\":\"\xe9\",\"from\":\"a\"}";
        assert!(Received::decode(latin).is_err());
    }

    #[test]
    fn the_deepest_data_that_is_sent_can_be_read_and_deeper_data_is_refused() {
        let nested = |depth| (0..depth).fold(Value::Null, |inner, _| json!([inner]));
        let deepest = Envelope::new("a", "b", nested(DEEPEST), None).unwrap();
        let decoded = Received::decode(&deepest.encode());
        assert_eq!(decoded, Ok(Received::Message(deepest)));
        let error = Envelope::new("a", "b", nested(DEEPEST + 1), None).unwrap_err();
        assert!(error.to_string().contains("126 deep"), "{error}");
    }
}
