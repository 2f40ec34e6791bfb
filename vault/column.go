package vault

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Rows travel as columns, one array parameter each. The driver encodes an array element by element, with an allocation for most of
// them; since arrays are most of what a trip carries, these are encoded as they lie.

// registerColumns teaches a connection to encode columns at once. What Postgres gets is the same, byte for byte.
func registerColumns(m *pgtype.Map) {
	for oid, columns := range map[uint32][]columnPlan{
		pgtype.UUIDArrayOID:        {column[ID]{pgtype.UUIDOID, appendID, nil}, column[*ID]{pgtype.UUIDOID, optional(appendID), nil}},
		pgtype.ByteaArrayOID:       {column[[]byte]{pgtype.ByteaOID, appendBytes, sizeOf[[]byte]}},
		pgtype.TextArrayOID:        {column[string]{pgtype.TextOID, appendText, sizeOf[string]}, column[[]byte]{pgtype.TextOID, appendBytes, sizeOf[[]byte]}},
		pgtype.Int4ArrayOID:        {column[int32]{pgtype.Int4OID, appendInt4, nil}},
		pgtype.Int8ArrayOID:        {column[int64]{pgtype.Int8OID, appendInt8, nil}},
		pgtype.TimestamptzArrayOID: {column[time.Time]{pgtype.TimestamptzOID, appendTime, nil}, column[*time.Time]{pgtype.TimestamptzOID, optional(appendTime), nil}},
	} {
		if t, known := m.TypeForOID(oid); known {
			m.RegisterType(&pgtype.Type{Name: t.Name, OID: oid, Codec: columnCodec{t.Codec, columns}})
		}
	}
}

// columnCodec encodes slices of some Go types and leaves everything else to the driver's codec.
type columnCodec struct {
	pgtype.Codec
	columns []columnPlan
}

type columnPlan interface {
	pgtype.EncodePlan
	takes(value any) bool
}

func (c columnCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	for _, plan := range c.columns {
		if format == pgtype.BinaryFormatCode && plan.takes(value) {
			return plan
		}
	}
	return c.Codec.PlanEncode(m, oid, format, value)
}

// column encodes a []T as an array of one dimension with elements of oid.
type column[T any] struct {
	oid    uint32
	append func([]byte, T) []byte // an element, its length before it
	size   func(T) int            // of an element; nil: 16 bytes at most
}

func (column[T]) takes(value any) bool {
	_, is := value.([]T)
	return is
}

// Encode writes what Postgres's array_recv reads: how many dimensions, whether there are nulls, the elements' type, and of the one
// dimension its length and lower bound; then the elements.
func (c column[T]) Encode(value any, buf []byte) ([]byte, error) {
	elements, start := value.([]T), len(buf)
	size := (5 + 5*len(elements)) * 4
	if c.size != nil {
		size = (5 + len(elements)) * 4
		for _, e := range elements {
			size += c.size(e)
		}
	}
	if cap(buf)-start < size {
		buf = slices.Grow(buf, start+size) // at least as much as there is: the driver has all parameters in one buffer
	}
	for _, word := range [...]uint32{1, 0, c.oid, uint32(len(elements)), 1} {
		buf = binary.BigEndian.AppendUint32(buf, word)
	}
	for _, e := range elements {
		at := len(buf)
		buf = c.append(buf, e)
		buf[start+7] |= buf[at] >> 7 // a null's length is negative
	}
	return buf, nil
}

func appendID(buf []byte, id ID) []byte      { return append(appendSize(buf, len(id)), id[:]...) }
func appendText(buf []byte, s string) []byte { return append(appendSize(buf, len(s)), s...) }
func appendInt4(buf []byte, n int32) []byte {
	return binary.BigEndian.AppendUint32(appendSize(buf, 4), uint32(n))
}
func appendInt8(buf []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(appendSize(buf, 8), uint64(n))
}
func appendSize(buf []byte, size int) []byte { return binary.BigEndian.AppendUint32(buf, uint32(size)) }
func appendNull(buf []byte) []byte           { return appendSize(buf, -1) }

// appendTime writes microseconds since 2000.
func appendTime(buf []byte, t time.Time) []byte {
	const y2k = 946_684_800 * 1_000_000
	return appendInt8(buf, t.UnixMicro()-y2k)
}

func appendBytes(buf, b []byte) []byte {
	if b == nil {
		return appendNull(buf)
	}
	return append(appendSize(buf, len(b)), b...)
}

func sizeOf[T ~string | ~[]byte](e T) int { return len(e) }

func optional[T any](some func([]byte, T) []byte) func([]byte, *T) []byte {
	return func(buf []byte, value *T) []byte {
		if value == nil {
			return appendNull(buf)
		}
		return some(buf, *value)
	}
}
