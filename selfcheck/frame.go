package selfcheck

import "fmt"

// frameNames are the stable names of the classes, as in TapView.Frames.
var frameNames = [frameClasses]string{
	FrameOther: "other", FrameText: "text", FrameBinary: "binary", FrameContinuation: "continuation",
	FramePing: "ping", FramePong: "pong", FrameClose: "close",
}

// String gives the class's stable name; "other" for a value that is none.
func (c FrameClass) String() string {
	if c >= frameClasses {
		return frameNames[FrameOther]
	}
	return frameNames[c]
}

// MarshalText writes the name.
func (c FrameClass) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a name and refuses any other text.
func (c *FrameClass) UnmarshalText(b []byte) error {
	for i, name := range frameNames {
		if name == string(b) {
			*c = FrameClass(i)
			return nil
		}
	}
	return fmt.Errorf("frame class %q is not known", b)
}

// frameRule is what RFC 6455 §5.2 says of one opcode.
type frameRule struct {
	class   FrameClass // FrameOther: reserved
	control bool
}

var opcodes = [16]frameRule{
	0x0: {class: FrameContinuation},
	0x1: {class: FrameText},
	0x2: {class: FrameBinary},
	0x8: {class: FrameClose, control: true},
	0x9: {class: FramePing, control: true},
	0xA: {class: FramePong, control: true},
}
