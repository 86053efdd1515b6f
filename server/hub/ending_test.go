package hub

import (
	"errors"
	"testing"

	"github.com/gorilla/websocket"

	"gururmm/selfcheck"
)

func TestEndingIsPutInWords(t *testing.T) {
	for _, c := range []struct {
		cause      error
		why, proof string
		said       selfcheck.Code
	}{
		{errors.New("read: connection reset by peer"), "read: connection reset by peer", "", ""},
		{&websocket.CloseError{Code: 1006, Text: "unexpected EOF"}, "cut off without a closing frame", "", ""},
		{&websocket.CloseError{Code: 1001}, "the agent closed it (code 1001)", "", ""},
		{&websocket.CloseError{Code: 1012, Text: "reconnect ordered: agent.hung: it hangs"}, "the agent closed it: reconnect ordered: agent.hung: it hangs", "", ""},
		{&websocket.CloseError{Code: 1012, Text: "reconnect ordered: link.uplink.lost: 9 read"}, "the agent closed it: reconnect ordered: link.uplink.lost: 9 read", "", selfcheck.CodeLinkUplinkLost},
		{&websocket.CloseError{Code: 1011, Text: "link.silent: no frame came: none for 4s"}, "the agent closed it: link.silent: no frame came: none for 4s", "", selfcheck.CodeLinkSilent},
		{
			&websocket.CloseError{Code: 1012, Text: "reconnect ordered: link.text.lost: 9 written, 8 read: 1 missing"},
			"the agent closed it: reconnect ordered: link.text.lost: 9 written, 8 read: 1 missing",
			"the agent says link.text.lost: 9 written, 8 read: 1 missing", selfcheck.CodeLinkTextLost,
		},
	} {
		if why, said, proof := ending(c.cause); why != c.why || said != c.said || proof != c.proof {
			t.Errorf("%v: %q, %q, %q; want %q, %q, %q", c.cause, why, said, proof, c.why, c.said, c.proof)
		}
	}
}
