//! A pool in thought: as it would be after a change, so that one can see what would come of it.

use super::{Member, MemberEntry, PoolView, Spec};

impl PoolView {
    /// The pool as if its spec were changed next.
    pub fn assume_spec(&mut self, spec: Spec) {
        self.spec = spec;
        self.causes.spec = self.changed + 1;
    }

    /// The pool as if a member were changed next.
    pub fn assume_member_changed(&mut self, name: &str, member: Member) {
        if let Some(entry) = self.members.get_mut(name) {
            entry.member = member;
            self.causes.operator = self.changed + 1;
        }
    }

    /// The pool as if a member joined next.
    pub fn assume_member_joined(&mut self, name: &str, member: Member) {
        let joined = self.changed + 1;
        self.recently_left.remove(name);
        self.causes.joined = joined;
        self.members.insert(name.to_owned(), MemberEntry { member, joined, version: 0, session: None });
    }

    /// The pool as if a member died next. False, if there is none of that name.
    pub fn assume_member_left(&mut self, name: &str) -> bool {
        let Some(entry) = self.members.remove(name) else { return false };
        self.causes.departure = self.changed + 1;
        self.record_departure(name, entry);
        true
    }
}
