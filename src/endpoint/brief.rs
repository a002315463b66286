//! What the log says of messages: whose they are and how long, and not what is in them. Of texts that
//! other programs have chosen, it gets no more than fits into a line.

use std::borrow::Cow;

use super::{EndpointEvent, Envelope};
use crate::error::chain;

/// How many bytes of a text the log gets.
const MOST: usize = 200;

/// The text, or its beginning with its length if it is long.
pub(super) fn brief(text: &str) -> Cow<'_, str> {
    if text.len() <= MOST {
        return text.into();
    }
    let is_end = |it: &usize| text.is_char_boundary(*it);
    let end = (0..=MOST).rev().find(is_end).unwrap_or_default();
    format!("{}… ({} bytes)", &text[..end], text.len()).into()
}

/// What kind of event it is, and about whom.
pub(super) fn event(event: &EndpointEvent) -> String {
    match event {
        EndpointEvent::Ready => "ready".into(),
        EndpointEvent::Message(envelope) => {
            let from = brief(&envelope.from);
            format!("message {} from {from:?}", message(envelope))
        }
        EndpointEvent::Undelivered { to, envelope, .. } => {
            format!(
                "undelivered message {} to {:?}",
                message(envelope),
                brief(to)
            )
        }
        EndpointEvent::Error(error) => brief(&format!("error: {}", chain(error))).into(),
        EndpointEvent::Closed => "closed".into(),
    }
}

fn message(envelope: &Envelope) -> String {
    let bytes = envelope.encode().len();
    format!("{:?} of {bytes} bytes", brief(&envelope.action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_its_length_is_said() {
        assert_eq!(brief("short"), "short");
        let exact = "x".repeat(MOST);
        assert_eq!(brief(&exact), exact);
        let long = format!("{}ä and more", "x".repeat(MOST - 1));
        let cut = format!("{}… (210 bytes)", "x".repeat(MOST - 1));
        assert_eq!(brief(&long), cut);
    }
}
