package datatype

import (
	"bytes"
	"encoding/base64"
)

// Binary values travel as base64 (RFC 4648 section 4, with padding) and are stored as the bytes themselves. Only the one
// canonical spelling is accepted, so that the text too comes back as it was sent.
var canonical = base64.StdEncoding.Strict()

func decodeBase64(text []byte) ([]byte, *Fault) {
	value := make([]byte, canonical.DecodedLen(len(text)))
	n, err := canonical.Decode(value, text) // skips line breaks
	if err != nil || bytes.ContainsAny(text, "\r\n") {
		return nil, fault("base64", "send base64 in the standard alphabet, with padding and without line breaks")
	}
	if n > maxValue {
		return nil, tooLong()
	}
	return value[:n], nil
}

func encodeBase64(value []byte) ([]byte, error) {
	out := make([]byte, 0, canonical.EncodedLen(len(value))+2)
	return append(canonical.AppendEncode(append(out, '"'), value), '"'), nil
}
