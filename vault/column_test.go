package vault

import (
	"bytes"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"pgregory.net/rapid"
)

// A column's bytes are those that the driver's own codec would send.
func TestColumnsAreWhatTheDriverSends(t *testing.T) {
	plain, ours := pgtype.NewMap(), pgtype.NewMap()
	registerColumns(ours)
	id := rapid.Custom(func(t *rapid.T) ID { return ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")) })
	at := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-1e11, 1e11).Draw(t, "s"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns"))
	})
	bytea := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOf(rapid.Byte()))
	for oid, columns := range map[uint32][]*rapid.Generator[any]{
		pgtype.UUIDArrayOID:        {rapid.SliceOf(id).AsAny(), rapid.SliceOf(rapid.Ptr(id, true)).AsAny()},
		pgtype.ByteaArrayOID:       {rapid.SliceOf(bytea).AsAny()},
		pgtype.TextArrayOID:        {rapid.SliceOf(rapid.String()).AsAny(), rapid.SliceOf(bytea).AsAny(), rapid.SliceOf(rapid.Ptr(rapid.String(), true)).AsAny()},
		pgtype.Int4ArrayOID:        {rapid.SliceOf(rapid.Int32()).AsAny()},
		pgtype.Int8ArrayOID:        {rapid.SliceOf(rapid.Int64()).AsAny()},
		pgtype.TimestamptzArrayOID: {rapid.SliceOf(at).AsAny(), rapid.SliceOf(rapid.Ptr(at, true)).AsAny()},
	} {
		for _, column := range columns {
			rapid.Check(t, func(t *rapid.T) {
				value, before := column.Draw(t, "column"), []byte("before")
				want, err := plain.Encode(oid, pgtype.BinaryFormatCode, value, before)
				if err != nil {
					t.Fatal(err)
				}
				have, err := ours.Encode(oid, pgtype.BinaryFormatCode, value, before)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(have, want) {
					t.Fatalf("%T: %x, the driver has %x", value, have, want)
				}
			})
		}
	}
}
