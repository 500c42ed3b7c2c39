package payload

import (
	"bytes"
	"testing"
)

func TestTheStreamRepeats(t *testing.T) {
	b := make([]byte, 3*Period+7)
	Fill(b)
	if !bytes.Equal(b[Period:], b[:2*Period+7]) {
		t.Error("it does not repeat after its period")
	}
	short := make([]byte, 100)
	if Fill(short); !bytes.Equal(short, b[:100]) {
		t.Error("its beginning depends on the length")
	}
}

func TestMessagesAreTheStream(t *testing.T) {
	want := make([]byte, 4*Period)
	Fill(want)
	var got []byte
	for m := NewMessages(5000); len(got) < 3*Period; {
		got = append(got, m.Next()...)
	}
	if !bytes.Equal(got, want[:len(got)]) {
		t.Error("messages together are not the stream")
	}
}
