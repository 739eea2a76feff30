//! The kinds of failures, and the seeds that have them.

/// The first seed of [`Kind::LATER`].
const LATER: u64 = 3_000;
/// The first seed of [`Kind::HTTP2`].
const HTTP2: u64 = LATER + 300;

/// The first seed of [`Kind::STANDING`].
const STANDING: u64 = HTTP2 + 420;
/// The first seed of [`Kind::HTTP2_EVENTS`].
pub(in crate::simulation) const HTTP2_EVENTS: u64 = STANDING + 300;

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulation) enum Kind {
    Clean,
    IdleCloses,
    Flawed,
    FewFlaws,
    Stalled,
    Refusing,
    RefusingLater,
    BlackHole,
    OneDeadAddress,
    MovedName,
    FailedRefresh,
    Capped,
    CappedNextToHealthy,
    SlowedDown,
    Paused,
    ShortPauses,
    Hostile,
    OutOfPorts,
    SlowHandshakes,
    SilentTls,
    PartialWrites,
    SlowWorker,
    ChangedRate,
    HandedOver,
    ManyAddresses,
    TwoStreams,
    IncompleteBodies,
    PausedAtStart,
    PausedWhileStalled,
    ReadsNothing,
    InFlight,
    InFlightStalled,
    Retried,
    Http2,
    Http2Flawed,
    Http2Goaway,
    Http2Refusing,
    Http2Calm,
    Http2PeerLimit,
    Http2Capped,
    Http2Window,
    Http2Hostile,
    Http2NotSpoken,
    Http2Silent,
    Http2Partial,
    Http2Stalled,
    Idle,
    IdleDead,
    Subscribed,
    SubscribedOdd,
    SubscribedHostile,
    Events,
    EventsOdd,
    EventsHostile,
    Http2Events,
    Http2EventsOdd,
    Http2EventsHostile,
    /// The server breaks HTTP/2 itself.
    Http2EventsBroken,
}

impl Kind {
    /// Whether all answers that arrive are as expected.
    pub(in crate::simulation) fn answers_are_valid(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Clean
                | Stalled
                | Capped
                | SlowedDown
                | Paused
                | PausedAtStart
                | PausedWhileStalled
                | ShortPauses
                | SlowHandshakes
                | PartialWrites
                | SlowWorker
                | OutOfPorts
                | Http2
                | Http2PeerLimit
                | Http2Capped
                | Http2Partial
                | Http2Stalled
        )
    }

    /// The kind of a seed. Kinds that came later have the seeds from [`LATER`] on, so that the others keep
    /// their scripts.
    pub(super) fn of(seed: u64) -> Kind {
        let (own, kinds) = match seed {
            ..LATER => (seed, &Kind::ALL[..]),
            LATER..HTTP2 => (seed - LATER, &Kind::LATER[..]),
            HTTP2..STANDING => (seed - HTTP2, &Kind::HTTP2[..]),
            STANDING..HTTP2_EVENTS => (seed - STANDING, &Kind::STANDING[..]),
            _ => (seed - HTTP2_EVENTS, &Kind::HTTP2_EVENTS[..]),
        };
        kinds[(own % kinds.len() as u64) as usize]
    }

    const LATER: [Kind; 3] = [Kind::InFlight, Kind::InFlightStalled, Kind::Retried];

    /// Whether its exchanges stay open.
    pub(in crate::simulation) fn stays_open(self) -> bool {
        Kind::STANDING.contains(&self) || Kind::HTTP2_EVENTS.contains(&self)
    }

    /// Whether its exchanges are event streams.
    pub(in crate::simulation) fn has_events(self) -> bool {
        let over_http1 = matches!(self, Kind::Events | Kind::EventsOdd | Kind::EventsHostile);
        over_http1 || Kind::HTTP2_EVENTS.contains(&self)
    }

    pub(in crate::simulation) const HTTP2_EVENTS: [Kind; 4] = [
        Kind::Http2Events,
        Kind::Http2EventsOdd,
        Kind::Http2EventsHostile,
        Kind::Http2EventsBroken,
    ];

    const STANDING: [Kind; 10] = [
        Kind::Idle,
        Kind::IdleDead,
        Kind::Subscribed,
        Kind::SubscribedOdd,
        Kind::SubscribedHostile,
        Kind::SubscribedHostile,
        Kind::Events,
        Kind::EventsOdd,
        Kind::EventsHostile,
        Kind::SubscribedOdd,
    ];

    const HTTP2: [Kind; 14] = [
        Kind::Http2,
        Kind::Http2Flawed,
        Kind::Http2Goaway,
        Kind::Http2Refusing,
        Kind::Http2Calm,
        Kind::Http2PeerLimit,
        Kind::Http2Capped,
        Kind::Http2Window,
        Kind::Http2Hostile,
        Kind::Http2Hostile,
        Kind::Http2NotSpoken,
        Kind::Http2Silent,
        Kind::Http2Partial,
        Kind::Http2Stalled,
    ];

    const ALL: [Kind; 30] = [
        Kind::Clean,
        Kind::IdleCloses,
        Kind::Flawed,
        Kind::FewFlaws,
        Kind::Stalled,
        Kind::Refusing,
        Kind::RefusingLater,
        Kind::BlackHole,
        Kind::OneDeadAddress,
        Kind::MovedName,
        Kind::FailedRefresh,
        Kind::Capped,
        Kind::CappedNextToHealthy,
        Kind::SlowedDown,
        Kind::Paused,
        Kind::ShortPauses,
        Kind::Hostile,
        Kind::OutOfPorts,
        Kind::SlowHandshakes,
        Kind::SilentTls,
        Kind::PartialWrites,
        Kind::SlowWorker,
        Kind::ChangedRate,
        Kind::HandedOver,
        Kind::ManyAddresses,
        Kind::TwoStreams,
        Kind::IncompleteBodies,
        Kind::PausedAtStart,
        Kind::PausedWhileStalled,
        Kind::ReadsNothing,
    ];
}
