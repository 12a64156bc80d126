//! The shapes of ringcentral.md B3 and B6, each as what its parties do in turn.

use super::Shape;
use super::script::{FAILURES, Leg, Says, Script, Side, Whose};
use crate::simulate::company::{Extension, ExtensionKind};
use rand::Rng;

impl<'c> Script<'_, 'c> {
    // Parts of calls

    /// A colleague rings another one; neither has answered.
    fn rings(&mut self, session: usize, caller: usize, callee: usize, to: &Side<'c>) -> (Leg, Leg) {
        let from = self.direct(caller);
        self.rings_from(session, caller, from, callee, to)
    }

    fn rings_from(&mut self, session: usize, caller: usize, from: Side<'c>, callee: usize, to: &Side<'c>) -> (Leg, Leg) {
        let a = self.party(session, Some(self.extension(caller)), "Outbound", from, to.clone());
        self.at(a).late_to = true;
        self.says(a, "Setup");
        self.wait(10, 200);
        let b = self.party(session, Some(self.extension(callee)), "Inbound", self.short(caller), to.clone());
        self.says(b, "Setup");
        // The caller's party turns Answered as soon as call handling starts (ringcentral.md B5).
        self.says(a, "Answered");
        self.says(b, "Proceeding");
        self.ring();
        (a, b)
    }

    fn internal_call(&mut self, caller: usize, callee: usize) -> (Leg, Leg) {
        let session = self.session("Call");
        let to = self.short(callee);
        let (a, b) = self.rings(session, caller, callee, &to);
        self.says(b, "Answered");
        self.talk();
        (a, b)
    }

    /// Somebody calls a user's number from outside the phone system.
    fn inbound(&mut self, caller: Side<'c>, callee: usize) -> (Leg, Leg) {
        let session = self.session("Call");
        let to = self.direct(callee);
        let called = Side { extension: None, ..to.clone() };
        let a = self.party(session, None, "Outbound", caller.clone(), called);
        self.says(a, "Setup");
        let b = self.party(session, Some(self.extension(callee)), "Inbound", caller, to);
        self.says(b, "Setup");
        self.says(b, "Proceeding");
        self.ring();
        (a, b)
    }

    fn answered_inbound(&mut self, caller: Side<'c>, callee: usize) -> (Leg, Leg) {
        let (a, b) = self.inbound(caller, callee);
        self.says(b, "Answered");
        self.says(a, "Answered");
        self.talk();
        (a, b)
    }

    fn outbound(&mut self, caller: usize, to: Side<'c>) -> (Leg, Leg) {
        let session = self.session("Call");
        let from = self.direct(caller);
        let a = self.party(session, Some(self.extension(caller)), "Outbound", from.clone(), to.clone());
        self.says(a, "Setup");
        // The outside party: our account id, no extension id, and our user in `from` (ringcentral.md B3).
        let b = self.party(session, None, "Inbound", from, to);
        self.says(b, "Setup");
        self.says(a, "Proceeding");
        self.says(b, "Proceeding");
        self.ring();
        (a, b)
    }

    fn answered_outbound(&mut self, caller: usize, to: Side<'c>) -> (Leg, Leg) {
        let (a, b) = self.outbound(caller, to);
        self.says(b, "Answered");
        self.says(a, "Answered");
        self.talk();
        (a, b)
    }

    fn hold(&mut self, leg: Leg) {
        self.says(leg, "Hold");
        self.wait(1_000, 30_000);
        self.says(leg, "Answered");
    }

    /// A call that somebody in the company or outside made to a user, answered. Legs: caller, user.
    fn any_call(&mut self, user: usize, colleague: usize) -> (Leg, Leg) {
        if self.chance(50) {
            self.internal_call(colleague, user)
        } else {
            let caller = self.outsider();
            self.answered_inbound(caller, user)
        }
    }

    /// An attempt that nobody answers, with one of its reasons.
    fn fails(&mut self, leg: Leg) {
        let reason = self.one_of(&FAILURES);
        self.at(leg).missed = matches!(reason, "NoAnswer" | "Cancelled");
        self.ends(leg, Some(reason));
    }

    // Shapes

    pub(super) fn play(&mut self, shape: Shape) -> Shape {
        match shape {
            Shape::DirectInternal => {
                let [a, b] = self.people();
                let (_, callee) = if self.chance(80) {
                    self.internal_call(a, b)
                } else {
                    let session = self.session("Call");
                    let to = self.direct(b);
                    let legs = self.rings(session, a, b, &to);
                    self.says(legs.1, "Answered");
                    self.talk();
                    legs
                };
                if self.chance(30) {
                    self.hold(callee);
                }
            }
            Shape::InboundDirect => {
                let [user] = self.people();
                let caller = self.outsider();
                if self.chance(75) {
                    let (_, callee) = self.answered_inbound(caller, user);
                    if self.chance(30) {
                        self.hold(callee);
                    }
                } else {
                    let (_, callee) = self.inbound(caller, user);
                    self.at(callee).missed = true;
                    self.ends(callee, Some("NoAnswer"));
                }
            }
            Shape::OutboundPstn => {
                let [user] = self.people();
                let callee = self.outsider();
                if self.chance(80) {
                    let (caller, _) = self.answered_outbound(user, callee);
                    if self.chance(20) {
                        self.hold(caller);
                    }
                } else {
                    let (_, callee) = self.outbound(user, callee);
                    self.fails(callee);
                }
            }
            Shape::IvrThenUser => self.ivr_then_user(),
            Shape::Queue => self.queue(),
            Shape::BlindTransferInside => {
                let [a, b, c] = self.people();
                let (caller, user) = self.any_call(a, b);
                self.ends(user, Some("BlindTransfer"));
                let from = self.sessions[caller.session].parties[caller.party].from.clone();
                let target = self.party(caller.session, Some(self.extension(c)), "Inbound", from, self.short(c));
                self.at(target).leg_type = Some("TransferCall");
                self.says(target, "Setup");
                self.says(target, "Proceeding");
                self.ring();
                self.says(target, "Answered");
                self.talk();
            }
            Shape::BlindTransferOutside => {
                let [a, b] = self.people();
                let (caller, user) = self.internal_call(a, b);
                self.ends(user, Some("BlindTransfer"));
                let from = self.direct(a);
                let to = self.outsider();
                let target = self.party(caller.session, None, "Inbound", from, to);
                self.at(target).leg_type = Some("TransferCall");
                self.says(target, "Setup");
                self.says(target, "Proceeding");
                self.ring();
                if self.chance(70) {
                    self.says(target, "Answered");
                    self.talk();
                } else {
                    self.fails(target);
                }
            }
            Shape::WarmTransferInside => {
                let [a, b, c] = self.people();
                let (_, agent) = self.internal_call(a, b);
                self.says(agent, "Hold");
                let (consulting, _) = self.internal_call(b, c);
                self.bridge(agent, consulting);
            }
            Shape::WarmTransferOutsider => {
                let [a, b] = self.people();
                let outsider = self.outsider();
                let (agent, consulting) = if self.chance(50) {
                    let (_, agent) = self.answered_inbound(outsider, a);
                    self.says(agent, "Hold");
                    (agent, self.internal_call(a, b).0)
                } else {
                    let (_, agent) = self.internal_call(b, a);
                    self.says(agent, "Hold");
                    (agent, self.answered_outbound(a, outsider).0)
                };
                self.bridge(agent, consulting);
            }
            Shape::ConferenceInside => {
                let [a, b, c] = self.people();
                let first = self.internal_call(a, b);
                let second = self.internal_call(a, c);
                self.conference(a, &[first, second]);
                self.talk();
            }
            Shape::ConferenceOutsider => {
                let [a, b] = self.people();
                let first = self.internal_call(a, b);
                let outsider = self.outsider();
                let second = self.answered_outbound(a, outsider);
                self.conference(a, &[first, second]);
                self.talk();
            }
            Shape::FailedExternalAdd => {
                let [a, b] = self.people();
                let first = self.internal_call(a, b);
                let (host, to) = (self.conference(a, &[first]), self.outsider());
                let from = self.direct(a);
                let added = self.party(host.session, None, "Inbound", from, to);
                self.at(added).conference_role = Some("Participant");
                self.says(added, "Setup");
                self.says(added, "Proceeding");
                self.ring();
                self.fails(added);
                self.talk();
            }
            Shape::ParkPickup => self.park_and_pickup(),
            Shape::RingOut => self.ring_out(),
            Shape::Voicemail => {
                let [a, b] = self.people();
                let (_, callee) = if self.chance(50) {
                    let session = self.session("Call");
                    let to = self.short(b);
                    self.rings(session, a, b, &to)
                } else {
                    let caller = self.outsider();
                    self.inbound(caller, b)
                };
                self.at(callee).missed = true;
                self.says(callee, "VoiceMail");
                self.wait(3_000, 40_000);
                self.ends(callee, Some("Voicemail"));
            }
            Shape::ForwardToRegisteredMobile | Shape::ForwardToPrivatePhone => return self.forward(shape),
            Shape::WithheldCaller => {
                let [user] = self.people();
                let caller = self.withheld();
                self.answered_inbound(caller, user);
            }
            Shape::SinceReleasedNumber => return self.since_released(),
            Shape::NotYetListedNumber => return self.not_yet_listed(),
            Shape::CallFlip => {
                let [a, b] = self.people();
                let (caller, user) = self.any_call(a, b);
                let old = &self.sessions[user.session].parties[user.party];
                let (from, to) = (old.from.clone(), old.to.clone());
                let flipped = self.party(caller.session, Some(self.extension(a)), "Inbound", from, to);
                self.says(flipped, "Setup");
                self.says(flipped, "Answered");
                self.ends(user, Some("CallFlip"));
                self.talk();
            }
            Shape::Supervision => {
                let [a, b, supervisor] = self.people();
                let (_, agent) = self.any_call(a, b);
                let session = self.session("Call");
                let (from, to) = (self.direct(supervisor), self.short(a));
                let listening = self.party(session, Some(self.extension(supervisor)), "Outbound", from, to);
                self.at(listening).leg_type = Some("Monitoring");
                self.says(listening, "Setup");
                self.says(listening, "Answered");
                self.talk();
                self.moves(listening, "Supervising", agent);
                self.talk();
            }
            Shape::FederatedColleague => {
                if self.hour.company.federated.is_empty() {
                    return self.play(Shape::DirectInternal);
                }
                let [user] = self.people();
                let n = self.hour.rng.random_range(0..self.hour.company.federated.len());
                let number = self.hour.company.federated[n].number.as_str();
                let caller = self.company_number(number);
                self.answered_inbound(caller, user);
            }
            Shape::Emergency => {
                let [user] = self.people();
                let to = Side { whose: Whose::Outsider, phone: Some("911".into()), extension: None, name: None };
                self.answered_outbound(user, to);
            }
        }
        shape
    }

    fn ivr_then_user(&mut self) {
        let [user] = self.people();
        let caller = self.outsider();
        let session = self.session("Call");
        let numbers: Vec<&'c str> = self.hour.company.company_numbers(self.now).collect();
        let number = if numbers.is_empty() { self.hour.company.main_number() } else { self.one_of(&numbers) };
        let main = self.company_number(number);
        let a = self.party(session, None, "Outbound", caller.clone(), main.clone());
        self.says(a, "Setup");
        let menu = self.of_kind(ExtensionKind::IvrMenu);
        let ivr = self.party(session, Some(menu), "Inbound", caller.clone(), Side { extension: Some(menu), ..main.clone() });
        self.says(ivr, "Setup");
        self.says(a, "Answered");
        self.wait(3_000, 15_000);
        self.ends(ivr, None);
        let e = self.extension(user);
        let b = self.party(session, Some(e), "Inbound", caller, Side { extension: Some(e), ..main });
        self.says(b, "Setup");
        self.says(b, "Proceeding");
        self.ring();
        self.says(b, "Answered");
        self.talk();
        if self.chance(50) {
            self.hold(b);
        }
    }

    fn queue(&mut self) {
        let queues = self.hour.queues.clone();
        let index = self.one_of(&queues);
        let queue = self.extension(index);
        let now = self.now;
        let agents: Vec<usize> = queue.members.iter().copied().filter(|&m| self.extension(m).exists_at(now)).collect();
        let [colleague] = self.people();
        let to = self.direct(index);
        let session = self.session("Call");
        let (owner, from) = if self.chance(25) { (Some(self.extension(colleague)), self.direct(colleague)) } else { (None, self.outsider()) };
        let a = self.party(session, owner, "Outbound", from.clone(), Side { extension: None, ..to.clone() });
        self.says(a, "Setup");
        let q = self.party(session, Some(queue), "Inbound", from.clone(), to.clone());
        self.says(q, "Setup");
        self.says(a, "Answered");
        self.says(q, "Proceeding");
        let mut rung = Vec::new();
        for agent in agents {
            // `to` is the queue, the party is the agent's, and there is no Setup (ringcentral.md B6).
            let leg = self.party(session, Some(self.extension(agent)), "Inbound", from.clone(), to.clone());
            self.at(leg).queue = Some(&queue.first_name);
            self.says(leg, "Proceeding");
            rung.push(leg);
        }
        self.ring();
        if rung.is_empty() || self.chance(10) {
            for leg in rung {
                self.at(leg).missed = true;
                self.ends(leg, Some("NoAnswer"));
            }
            return;
        }
        let winner = self.one_of(&rung);
        self.says(winner, "Answered");
        for leg in rung {
            if leg != winner {
                self.ends(leg, Some("AgentAnswered"));
            }
        }
        self.ends(q, None);
        self.talk();
    }

    /// Both of the transferring user's legs go, each pointing to the other's session; the others talk on.
    fn bridge(&mut self, first: Leg, second: Leg) {
        self.moves(first, "AttendedTransfer", second);
        self.moves(second, "AttendedTransfer", first);
        self.talk();
    }

    /// Merges answered calls (host's leg, other's leg) into a conference; gives the host's leg there.
    fn conference(&mut self, host: usize, calls: &[(Leg, Leg)]) -> Leg {
        let session = self.session("Conference");
        let (from, bridge) = (self.direct(host), self.service("conference"));
        let host_leg = self.party(session, Some(self.extension(host)), "Outbound", from, bridge.clone());
        self.at(host_leg).conference_role = Some("Host");
        self.says(host_leg, "Setup");
        self.says(host_leg, "Answered");
        for &(own, other) in calls {
            let of = &self.sessions[other.session].parties[other.party];
            let (owner, who) = (of.owner, of.to.clone());
            let joined = self.party(session, owner, "Inbound", who, bridge.clone());
            self.at(joined).conference_role = Some("Participant");
            self.says(joined, "Setup");
            self.says(joined, "Answered");
            self.moves(other, "Conference", joined);
            self.moves(own, "Conference", host_leg);
            if self.chance(30) {
                // Seen in a vendor mock: a participant of the conference that points back to where it came from.
                self.says_that(joined, "Gone", &Says { peer: Some(other), ..Says::default() });
            }
        }
        host_leg
    }

    fn park_and_pickup(&mut self) {
        let [a, b, picker] = self.people();
        let (_, user) = self.any_call(a, b);
        let place = format!("{}", self.hour.rng.random_range(801..=810));
        let code = format!("*{place}");
        let at_location = self.chance(30);
        let park = if at_location { (Some(""), None) } else { (Some(code.as_str()), Some(place.as_str())) };
        self.says_that(user, "Parked", &Says { reason: at_location.then_some("ParkLocation"), park: Some(park), ..Says::default() });
        self.wait(4_000, 60_000);
        let session = self.session("Call");
        let (from, to) = (self.direct(picker), self.service(&code));
        let picking = self.party(session, Some(self.extension(picker)), "Outbound", from, to);
        self.at(picking).leg_type = Some("Pickup");
        self.says(picking, "Setup");
        self.says(picking, "Proceeding");
        self.says(picking, "Answered");
        self.moves(user, "Pickup", picking);
        self.talk();
    }

    fn ring_out(&mut self) {
        let [user, colleague] = self.people();
        let (owner, other) = if self.chance(40) { (Some(self.extension(colleague)), self.direct(colleague)) } else { (None, self.outsider()) };
        let own = self.direct(user);
        // The user's own phone is rung first, with the target's number; then the target, in another session without a link.
        let first = self.session("RingOut");
        let initiator = self.party(first, Some(self.extension(user)), "Inbound", other.clone(), own.clone());
        self.at(initiator).ring_out_role = Some("Initiator");
        self.at(initiator).leg_type = Some("RingOutWebToSubscriber");
        self.says(initiator, "Setup");
        self.says(initiator, "Proceeding");
        self.ring();
        self.says(initiator, "Answered");
        let second = self.session("RingOut");
        let target = self.party(second, owner, "Inbound", own, other);
        self.at(target).ring_out_role = Some("Target");
        self.at(target).leg_type = Some("RingOutWebToCaller");
        self.says(target, "Setup");
        self.says(target, "Proceeding");
        self.ring();
        self.says(target, "Answered");
        self.talk();
    }

    fn forward(&mut self, shape: Shape) -> Shape {
        let registered = shape == Shape::ForwardToRegisteredMobile;
        let [a, mut b] = self.people();
        let has = |e: &'c Extension| if registered { e.registered_mobile.as_deref() } else { e.private_phone.as_deref() };
        for _ in 0..20 {
            if b != a && has(self.extension(b)).is_some() {
                break;
            }
            [b] = self.people();
        }
        let Some(number) = has(self.extension(b)).filter(|_| a != b) else { return self.play(Shape::DirectInternal) };
        let session = self.session("Call");
        let to = self.short(b);
        let (_, desk) = self.rings(session, a, b, &to);
        let phone = if registered {
            self.company_number(number)
        } else {
            Side { whose: Whose::Outsider, phone: Some(number.into()), extension: None, name: None }
        };
        let from = self.direct(a);
        let forwarded = self.party(session, Some(self.extension(b)), "Inbound", from, phone);
        self.at(forwarded).leg_type = Some("FindMe");
        self.says(forwarded, "Setup");
        self.says(forwarded, "Proceeding");
        self.ring();
        if self.chance(70) {
            self.says(forwarded, "Answered");
            self.ends(desk, Some("Cancelled"));
            self.talk();
        } else {
            self.ends(forwarded, Some("NoAnswer"));
            self.ends(desk, Some("NoAnswer"));
        }
        shape
    }

    fn since_released(&mut self) -> Shape {
        let now = self.now;
        let company = self.hour.company;
        let later = company.numbers.iter().filter_map(|n| {
            let holder = n.holding_at(now)?.extension?;
            let (released, _) = n.released?;
            let usable = n.listed_from <= now && now < released && company.extensions[holder].exists_at(now);
            usable.then_some((n.number.as_str(), holder))
        });
        let later: Vec<_> = later.collect();
        let [caller] = self.people();
        let Some(&(number, holder)) = later.get(self.hour.rng.random_range(0..later.len().max(1))).filter(|(_, holder)| *holder != caller) else {
            return self.play(Shape::DirectInternal);
        };
        let session = self.session("Call");
        let to = self.by(holder, number);
        let (_, callee) = self.rings(session, caller, holder, &to);
        self.says(callee, "Answered");
        self.talk();
        Shape::SinceReleasedNumber
    }

    fn not_yet_listed(&mut self) -> Shape {
        let now = self.now;
        let company = self.hour.company;
        let fresh = company.numbers.iter().find_map(|n| {
            let holder = n.holding_at(now)?.extension?;
            (n.listed_from > now && company.extensions[holder].exists_at(now)).then_some((n.number.as_str(), holder))
        });
        let [callee] = self.people();
        let Some((number, holder)) = fresh.filter(|(_, holder)| *holder != callee) else { return self.play(Shape::DirectInternal) };
        let session = self.session("Call");
        let (from, to) = (self.by(holder, number), self.short(callee));
        let (_, answering) = self.rings_from(session, holder, from, callee, &to);
        self.says(answering, "Answered");
        self.talk();
        Shape::NotYetListedNumber
    }
}
