package wire

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestBothWaysOfAnEnvelopeAgree has envelopes of all shapes go both ways.
func TestBothWaysOfAnEnvelopeAgree(t *testing.T) {
	for _, e := range []Envelope{
		{Type: TypeEcho, Payload: json.RawMessage(`{"id":"x"}`)},
		{Type: TypeEcho, Seq: 17, Payload: json.RawMessage(`[1,2,"}"]`)},
		{Type: TypeCommand, Seq: 1<<64 - 1, KeyID: "9f86d081884c7d65", Sig: []byte{0, 255, 62}, Payload: json.RawMessage(`{"script":"a\u003cb \"q\" \\"}`)},
		{Type: `odd"type`, Seq: 1, Payload: json.RawMessage(`7`)},
		{Type: TypeNack, KeyID: "a b", Payload: json.RawMessage(`"ü"`)},
		{Type: TypeNack, Payload: json.RawMessage(" { \"a\" : 1 } ")},
	} {
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		long := e
		if long.Payload, err = json.Marshal(e.Payload); err != nil {
			t.Fatal(err)
		}
		crc := hexOf(long.crc())
		long.CRC = string(crc[:])
		want, err := json.Marshal(long)
		if err != nil || string(raw) != string(want) {
			t.Errorf("written %s, the long way %s (%v)", raw, want, err)
		}
		got, err := Decode(raw)
		if err != nil || !reflect.DeepEqual(got, long) {
			t.Errorf("read %+v (%v), want %+v", got, err, long)
		}
	}
	plain, _ := Envelope{Type: TypeEcho, Seq: 1, Payload: json.RawMessage(`{}`)}.Encode()
	if _, ok := decodePlain(plain); !ok {
		t.Errorf("%s goes the long way", plain)
	}
	agree(t, string(plain))
	for _, text := range []string{
		strings.Replace(string(plain), `"seq":1`, `"seq":01`, 1), strings.Replace(string(plain), `{}`, ` {}`, 1), string(plain) + " ", string(plain) + "x",
		strings.Replace(string(plain), `{}`, `1},"type":"nack","payload":{}`, 1), strings.Replace(string(plain), `"crc"`, `"CRC"`, 1),
		`{"type":"echo","sig":"AA=\n=","payload":{}}`, `{"type":"echo","kid":"","payload":null}`, `{"type":"","payload":{}}`, `{"type":"echo","payload":}`,
	} {
		agree(t, text)
	}
}

// agree holds that what is read the short way is read the same the long way.
func agree(t *testing.T, text string) {
	t.Helper()
	short, ok := decodePlain([]byte(text))
	if !ok {
		return
	}
	var long Envelope
	if err := json.Unmarshal([]byte(text), &long); err != nil || !reflect.DeepEqual(short, long) {
		t.Errorf("%q: the short way %+v, the long way %+v (%v)", text, short, long, err)
	}
}

func FuzzBothWays(f *testing.F) {
	f.Add(`{"type":"command","crc":"89abcdef","seq":17,"kid":"9f86d081884c7d65","sig":"AP8+","payload":{"a":[1]}}`)
	f.Add(`{"type":"echo","payload":1}`)
	f.Fuzz(func(t *testing.T, text string) { agree(t, text) })
}

// agreeOn holds that text is the same payload by both ways, or none by both.
func agreeOn[T any](t *testing.T, text string) {
	t.Helper()
	var long T
	want := json.Unmarshal([]byte(text), &long)
	short, err := DecodePayload[T](Envelope{Type: TypeEcho, Payload: json.RawMessage(text)})
	if (err == nil) != (want == nil) || err == nil && !reflect.DeepEqual(short, long) {
		t.Errorf("%q: the short way %+v (%v), the long way %+v (%v)", text, short, err, long, want)
	}
}

// sealed holds that a payload is written as encoding/json writes it.
func sealed(t *testing.T, payload any) {
	t.Helper()
	want, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Seal(TypeEcho, payload)
	if err != nil || string(e.Payload) != string(want) {
		t.Errorf("written %s, the long way %s (%v)", e.Payload, want, err)
	}
}

// plainIsCompact holds that what is called plain is what encoding/json would make of it.
func plainIsCompact(t *testing.T, text string) {
	t.Helper()
	if !plainJSON([]byte(text)) {
		return
	}
	if raw, err := json.Marshal(json.RawMessage(text)); err != nil || string(raw) != text {
		t.Errorf("%q is called plain, the long way makes it %q (%v)", text, raw, err)
	}
}

func TestBothWaysOfAPayloadAgree(t *testing.T) {
	for _, text := range []string{
		`{"id":"x","size":7}`, `{"id":"x","got":7}`, `{"id":"x","size":7,"pad":"xx"}`, `{"id":"x","got":-7,"pad":"xx"}`, `{"id":"x","size":07}`,
		`{"id":"x","size":7.0}`, `{"id":"x","size":7e0}`, `{"id":"x","size":99999999999999999999}`, `{"id":"x","size":7}x`, `{"id":"x","size":7,}`,
		`{"id":"","size":7}`, `{"id":"x\u0041","size":7}`, `{"id":"x","size":7,"pad":""}`, `{"id":"x","size":7,"pad":"x"`, `{"id":"x","size":}`,
		`{"id":"x","size":-}`, `{"id":"x","size":-0}`, `{"id":"x", "size":7}`, `{"id":"x","SIZE":7}`, `{"size":7,"id":"x"}`, `{"id":"x","size":7,"id":"y"}`,
		`{"id":"x","size":7,"pad":"x","more":[1]}`, `null`, ``, `{}`, `[]`, `{"id":"x","size":7]`,
	} {
		agreeOn[Echo](t, text)
		agreeOn[EchoReply](t, text)
	}
	for _, p := range []any{
		Echo{}, Echo{ID: "x", Size: -7, Pad: "p"}, Echo{ID: "a<b", Pad: "p"}, Echo{ID: "x", Pad: "ü"}, &Echo{ID: "x"},
		EchoReply{}, EchoReply{ID: "x", Got: 1 << 40, Pad: strings.Repeat("x", 4096)}, EchoReply{ID: "\x00"},
	} {
		sealed(t, p)
	}
	plain := []string{`0`, `-1.5e+3`, `"a\n\u00e4ü"`, `true`, `[]`, `{}`, `[[1,{"a":null}],false]`, `{"a":{"b":"c"}}`}
	for _, text := range plain {
		if plainIsCompact(t, text); !plainJSON([]byte(text)) {
			t.Errorf("%s goes the long way", text)
		}
	}
	for _, text := range append(plain, ``, ` `, `01`, `-`, `1.`, `1e`, `.5`, `+1`, `tru`, `truer`, `"`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\n\"", `"<"`, "\"\u2028\"",
		`[`, `[1`, `[1,`, `[1,]`, `[1 ]`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a":1}}`, strings.Repeat("[", 100)+strings.Repeat("]", 100)) {
		for _, text := range []string{text, text + " ", "[" + text + "]", "[" + text, `{"a":` + text + "}", text + text} {
			plainIsCompact(t, text)
		}
	}
}

func FuzzPayloads(f *testing.F) {
	f.Add(`{"id":"x","size":7,"pad":"xx"}`, "x", 7, "xx")
	f.Add(`{"id":"x","got":7,"pad":"xx"}`, "<", -7, "")
	f.Add(`[{"a":"\u00e4\n","b":[true,false,null,-1.5e3]}]`, "", 0, "\u2028")
	f.Fuzz(func(t *testing.T, text, id string, n int, pad string) {
		agreeOn[Echo](t, text)
		agreeOn[EchoReply](t, text)
		plainIsCompact(t, text)
		sealed(t, Echo{ID: id, Size: n, Pad: pad})
		sealed(t, EchoReply{ID: id, Got: n, Pad: pad})
	})
}

func BenchmarkEcho(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		e, err := Seal(TypeEcho, Echo{ID: "bench", Size: 7})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodePayload[Echo](e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnvelope(b *testing.B) {
	e, err := Seal(TypeCommandAck, CommandAck{ID: NewID()})
	if err != nil {
		b.Fatal(err)
	}
	e.Seq = 17
	b.ReportAllocs()
	for b.Loop() {
		raw, err := e.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
