package network

import (
	"math/rand/v2"
	"time"
)

// The DHCP client's states and events: RFC 2131, figure 5, with its REQUESTING
// folded into selecting (one exchange is tried as a whole or not at all) and
// two states added, because an address here is never dropped by accident:
// idle waits for a carrier with the address still in place, and expired is the
// only state that takes an address away.

type state int

const (
	idle      state = iota // no carrier
	rebooting              // a lease is known: ask whether it still holds (INIT-REBOOT)
	selecting              // DISCOVER, OFFER, REQUEST
	bound                  // until T1
	renewing               // asks the server that gave the lease, until T2
	rebinding              // asks every server, until the lease ends
	expired                // the address goes
	states
)

func (s state) String() string {
	return [...]string{"idle", "rebooting", "selecting", "bound", "renewing", "rebinding", "expired"}[s]
}

type event int

const (
	linkUp   event = iota // carrier is there, or was away for a moment
	linkDown              // carrier is gone
	unknown               // there is no lease to ask for
	ack                   // a server granted the lease
	nak                   // a server refused it
	silence               // nobody answered
	keep                  // nobody answered, but the lease has not ended (RFC 2131, 3.2 item 4)
	t1                    // time to renew
	t2                    // time to rebind
	leaseEnd              // the lease has ended
	dropped               // the address was taken away
	events
)

func (e event) String() string {
	return [...]string{"link up", "link down", "no lease known", "granted", "refused", "no answer",
		"no answer, lease still runs", "T1", "T2", "lease ended", "address dropped"}[e]
}

// transitions holds every step that the client can take; anything else is a
// defect and leads back to idle, which is safe from everywhere.
var transitions = map[state]map[event]state{
	idle:      {linkUp: rebooting, linkDown: idle, leaseEnd: expired},
	rebooting: {unknown: selecting, ack: bound, nak: expired, silence: selecting, keep: rebinding, linkDown: idle},
	selecting: {ack: bound, nak: selecting, silence: selecting, leaseEnd: expired, linkUp: rebooting, linkDown: idle},
	bound:     {t1: renewing, leaseEnd: expired, linkUp: rebooting, linkDown: idle},
	renewing:  {ack: bound, nak: expired, silence: renewing, t2: rebinding, leaseEnd: expired, linkUp: rebooting, linkDown: idle},
	rebinding: {ack: bound, nak: expired, silence: rebinding, leaseEnd: expired, linkUp: rebooting, linkDown: idle},
	expired:   {dropped: idle},
}

// next is the state after e. The second result is false for a pair that the
// table does not have.
func next(s state, e event) (state, bool) {
	n, ok := transitions[s][e]
	if !ok {
		return idle, false
	}
	return n, true
}

// backoff is how long to wait after the n-th try (from 0) that nobody
// answered: 2, 4, 8 … 64 s, each ± up to a second (RFC 2131, 4.1: randomised
// exponential backoff, 64 s at most), so that a rack that came back with the
// power does not ask in step.
func backoff(n int, jitter func() float64) time.Duration {
	d := 64 * time.Second
	if n < 5 {
		d = 2 * time.Second << n
	}
	return d + time.Duration((2*jitter()-1)*float64(time.Second))
}

// retryIn is how long to wait in renewing and rebinding before asking again:
// half of what is left until the state ends, at least a minute, never beyond
// it (RFC 2131, 4.4.5).
func retryIn(left time.Duration) time.Duration {
	return max(0, min(max(left/2, time.Minute), left))
}

func jitter() float64 { return rand.Float64() }
