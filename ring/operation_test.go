//go:build linux

package ring

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.com/ringnet/internal/sys"
)

// operations do what each Prepare method says, on the real kernel. They are named
// after the method, and after a comma what is special.
var operations = []struct {
	name  string
	needs Features
	op    int // an operation of the kernel that has no feature, 0: none
	run   func(*testing.T, *testRing)
}{
	{name: "PrepareNop", run: nop},
	{name: "PrepareAccept", run: accept},
	{name: "PrepareAcceptMultishot", needs: AcceptMultishot, run: acceptMultishot},
	{name: "PrepareAcceptDirect", needs: DirectDescriptors, run: acceptDirect},
	{name: "PrepareAcceptMultishotDirect", needs: AcceptMultishot | DirectDescriptors, run: acceptMultishotDirect},
	{name: "PrepareRecv", run: recv},
	{name: "PrepareRecvSelect", needs: BufferRings, run: recvSelect},
	{name: "PrepareRecvMultishot", needs: RecvMultishot | BufferRings, run: recvMultishot},
	{name: "PrepareRecvMultishot, poll first", needs: RecvMultishot | BufferRings, run: recvPollFirst},
	{name: "PrepareRecvMultishot, armed late", needs: RecvMultishot | BufferRings, run: recvLate},
	{name: "PrepareRecvmsg", run: recvmsg},
	{name: "PrepareRecvmsgSelect", needs: BufferRings, run: recvmsgSelect},
	{name: "PrepareRecvmsgMultishot", needs: RecvMultishot | BufferRings, run: recvmsgMultishot},
	{name: "PrepareSend", run: send},
	{name: "PrepareSend, all of a large buffer", run: sendAll},
	{name: "PrepareSend, cancelled half-way", run: sendCancelled},
	{name: "PrepareSendmsg", run: sendmsg},
	{name: "PrepareSendZC", needs: SendZC, run: sendZC},
	{name: "PrepareSendZC, refused", needs: SendZC, run: sendZCRefused},
	{name: "PrepareSendZCFixed", needs: SendZC, run: sendZCFixed},
	{name: "PrepareSendmsgZC", needs: SendmsgZC, run: sendmsgZC},
	{name: "PrepareRead", run: read},
	{name: "PrepareReadFixed", run: readFixed},
	{name: "PrepareWrite", run: write},
	{name: "PrepareWriteFixed", run: writeFixed},
	{name: "PrepareConnect", run: connect},
	{name: "PrepareClose", run: closeFd},
	{name: "PrepareCloseDirect", needs: DirectDescriptors, run: closeDirect},
	{name: "PrepareShutdown", run: shutdown},
	{name: "PrepareCancel", run: cancel},
	{name: "PrepareCancelFd", run: cancelFd},
	{name: "PrepareCancelAll", run: cancelAll},
	{name: "PreparePoll", run: poll},
	{name: "PreparePollMultishot", needs: PollMultishot, run: pollMultishot},
	{name: "PrepareTimeout", run: timeout},
	{name: "PrepareTimeout, counting", run: timeoutCounting},
	{name: "PrepareTimeoutRemove", run: timeoutRemove},
	{name: "PrepareLinkTimeout", run: linkTimeout},
	{name: "PrepareNop, linked", run: linked},
	{name: "PrepareNop, silent", run: silent},
	{name: "PrepareMessage", needs: MessageRing, run: message},
	{name: "PrepareInstall", needs: DirectDescriptors, op: sys.IORING_OP_FIXED_FD_INSTALL, run: install},
}

// setupMasks are the ways in which a ring can be set up.
var setupMasks = []struct {
	name string
	mask Features
}{
	{"everything", 0},
	{"no registered ring", RegisteredRing},
	{"an entry array", NoEntryArray},
	{"no deferred task work", DeferTaskrun},
	{"many issuers", SingleIssuer},
	{"nothing", RegisteredRing | NoEntryArray | DeferTaskrun | SingleIssuer},
}

func TestEveryOperationOnEveryKindOfRing(t *testing.T) {
	for _, m := range setupMasks {
		for _, o := range operations {
			t.Run(m.name+"/"+o.name, func(t *testing.T) {
				r := open(t, Config{EntryCount: 8, CompletionCount: 64, Mask: m.mask})
				if !r.Have(o.needs) {
					t.Skipf("this kernel has only %v", r.Features())
				}
				if o.op != 0 && !knownOperation(t, o.op) {
					t.Skipf("this kernel has no operation %d", o.op)
				}
				o.run(t, r)
				r.silent()
				if r.Lost() != 0 {
					t.Errorf("%d completions lost", r.Lost())
				}
			})
		}
	}
}

// uringOnly are the operations and flags that the epoll engine answers with EINVAL.
// Nothing in this module needs them.
var uringOnly = []string{
	"PrepareTimeout, counting",
	"PrepareLinkTimeout",
	"PrepareNop, linked",
	"PrepareSendZC, refused", // it is a copy anyway
}

func TestEveryOperationOnEpoll(t *testing.T) {
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			r := open(t, Config{Engine: Epoll, EntryCount: 8, CompletionCount: 64})
			if !r.Have(o.needs) || slices.Contains(uringOnly, o.name) {
				t.Skipf("the epoll engine does not do this")
			}
			o.run(t, r)
			r.silent()
		})
	}
}

func TestEveryPrepareMethodIsTested(t *testing.T) {
	tested := map[string]bool{}
	for _, o := range operations {
		name, _, _ := strings.Cut(o.name, ",")
		tested[name] = true
	}
	entry := reflect.TypeFor[*Entry]()
	for i := range entry.NumMethod() {
		name := entry.Method(i).Name
		if strings.HasPrefix(name, "Prepare") && !tested[name] {
			t.Errorf("%s has no test in operations", name)
		}
		delete(tested, name)
	}
	for name := range tested {
		t.Errorf("%s is tested and does not exist", name)
	}
}

// knownOperation asks the kernel whether it has heard of an operation.
func knownOperation(t *testing.T, op int) bool {
	t.Helper()
	u, err := sys.Setup(1, sys.Params{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	known, err := u.Operations()
	if err != nil {
		t.Fatal(err)
	}
	return known[op]
}

func nop(t *testing.T, r *testRing) {
	for range 20 { // more than the queue has places
		r.want(0, func(e *Entry) { e.PrepareNop() })
	}
}
