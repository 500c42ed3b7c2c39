//go:build linux

package ring

import "strings"

// Features is a set of things that newer kernels brought and that a ring can do
// without. Each is probed by doing it ([Have]) and can be masked ([Config.Mask]),
// so that tests run without it on a kernel that has it.
type Features uint32

const (
	// BufferRings are rings of provided buffers. Since Linux 5.19. Package net
	// cannot do without them.
	BufferRings Features = 1 << iota
	// AcceptMultishot is one entry for many accepts. Since Linux 5.19.
	AcceptMultishot
	// RecvMultishot is one entry for many receives. Since Linux 6.0.
	RecvMultishot
	// PollMultishot is one entry for many readiness events. Since Linux 5.13.
	PollMultishot
	// SendZC is sending without a copy. Since Linux 6.0.
	SendZC
	// SendmsgZC is sending a vector without a copy. Since Linux 6.1.
	SendmsgZC
	// UsageReport has the notification of a zero-copy send say whether the kernel
	// copied after all. Since Linux 6.2.
	UsageReport
	// DirectDescriptors are descriptors in a table of the ring. Since Linux 5.19.
	DirectDescriptors
	// MessageRing is an entry that posts a completion to another ring. Since
	// Linux 5.18.
	MessageRing
	// SyncMessage is the same without a ring of one's own. Since Linux 6.13.
	SyncMessage
	// RegisteredRing spares each enter a reference count. Since Linux 5.18.
	RegisteredRing
	// DeferTaskrun runs completions only when the ring's thread asks for them.
	// Since Linux 6.1.
	DeferTaskrun
	// SingleIssuer spares submissions a lock. Since Linux 6.0.
	SingleIssuer
	// NoEntryArray spares submissions a cache line (NO_SQARRAY). Since Linux 6.6.
	NoEntryArray
	// UnixRecvMultishot is RecvMultishot on Unix stream sockets, without the fault
	// that an end of stream that comes with the last bytes is missed (liburing
	// issue 1549). Linux 6.18 has that fault, since Unix sockets began to tell how
	// much waits in them; 6.18.36 mended only a part of it. Package net asks the socket
	// there whenever a receive has emptied it.
	UnixRecvMultishot
	// RecvMultishotReset is that a multishot receive tells of every reset. Some
	// kernels forget one that came together with the last bytes in front of it
	// (see reset.go), and then nothing ever tells of it. Package net asks the
	// socket there whenever a receive has emptied it.
	RecvMultishotReset
	// DirectRelease is that a file which is taken out of the ring's table is let go
	// at once. Linux 6.1 holds on to it for a second, and with it to a socket that
	// is closed: its peer hears of that so much later.
	DirectRelease
	// RecvMultishotLate is that a multishot receive which is armed late, when bytes
	// and a reset behind them have come already, tells of both. Linux 6.18 forgets
	// the reset (see reset.go), and shutdown(2) in the same place. Package net asks
	// the socket there, at most once for each receive that it arms: not if something
	// is to be sent, which tells as well.
	RecvMultishotLate

	endOfFeatures
)

// AllFeatures is every feature.
const AllFeatures = endOfFeatures - 1

var featureNames = [...]string{"buffer-rings", "accept-multishot", "recv-multishot", "poll-multishot", "send-zc",
	"sendmsg-zc", "usage-report", "direct-descriptors", "message-ring", "sync-message", "registered-ring", "defer-taskrun",
	"single-issuer", "no-entry-array", "unix-recv-multishot", "recv-multishot-reset", "direct-release",
	"recv-multishot-late"}

// String lists the names of the set's features, separated by spaces.
func (f Features) String() string {
	var names []string
	for i, name := range featureNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

// Have reports that this ring may use every feature of f: it is not masked, and a
// probe found it.
func (r *Ring) Have(f Features) bool {
	if r.cfg.Mask&f != 0 {
		return false
	}
	if r.kind != Uring {
		return r.have&f == f
	}
	for i := range featureNames {
		if one := Features(1 << i); f&one != 0 && Have(one) != nil {
			return false
		}
	}
	return true
}

// Features is the set of all features that this ring may use.
func (r *Ring) Features() Features {
	var set Features
	for i := range featureNames {
		if one := Features(1 << i); r.Have(one) {
			set |= one
		}
	}
	return set
}
