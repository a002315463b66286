//! What happens to the order of messages, and to connections, when programs are started again.
