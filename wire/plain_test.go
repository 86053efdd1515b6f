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
		long.CRC = long.crc()
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
