package link_test

import (
	"crypto/sha1"
	"encoding/base64"
)

// accept is RFC 6455 §4.2.2, item 5.4.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
