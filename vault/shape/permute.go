package shape

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/privault/privault/vault/fpe"
)

type direction bool

const (
	encrypt direction = false
	decrypt direction = true
)

// permutation is a permutation of a shape's rows without fixed points, made from one that may have some.
type permutation struct {
	once func(row []uint16, way direction) ([]uint16, error)
	next func(row []uint16, step int) []uint16 // +1 and -1 undo each other, and never give row itself
}

// apply permutes a row. A run of fixed points, in the order of next, and the row behind it become a ring: each is mapped to
// the image of the next, and the last to the image of the first. That is a permutation again, has no fixed point, and
// differs from the first one nowhere else. Whether it does takes a look at the row before, too.
func (p permutation) apply(row []uint16, way direction) ([]uint16, error) {
	image, err := p.once(row, way)
	if err != nil {
		return nil, err
	}
	from := row
	if way == decrypt {
		from = image
	}
	before := p.next(from, -1)
	fixed, err := p.fixes(before)
	if err != nil {
		return nil, err
	}
	switch same := slices.Equal(row, image); {
	case way == encrypt && same:
		return p.once(p.next(row, +1), encrypt)
	case way == encrypt && fixed:
		return p.endOfRun(before, -1)
	case way == decrypt && fixed:
		return before, nil
	case way == decrypt && same:
		last, err := p.endOfRun(row, +1)
		if err != nil {
			return nil, err
		}
		return p.next(last, +1), nil
	}
	return image, nil
}

// endOfRun is the last fixed point in a direction, from one on. Somewhere there is a row that isn't fixed.
func (p permutation) endOfRun(row []uint16, step int) ([]uint16, error) {
	for {
		next := p.next(row, step)
		if fixed, err := p.fixes(next); err != nil || !fixed {
			return row, err
		}
		row = next
	}
}

func (p permutation) fixes(row []uint16) (bool, error) {
	image, err := p.once(row, encrypt)
	return slices.Equal(row, image), err
}

// maxWalk bounds the walk of a date. Of its 2^bits rows more than half are dates, so a walk takes under two steps on average,
// and this many once in 2^100 dates.
const maxWalk = 100

var errWalk = errors.New("shape: FF1 leads to no date")

// permute puts FF1 to work on a row. Rows beyond the last date are walked past (cycle walking: Black and Rogaway, "Ciphers
// with Arbitrary Finite Domains", CT-RSA 2002). Under the rule "invalid" the Luhn remainder sees to it that no token equals
// its value.
func (s *Shape) permute(c *fpe.Cipher, tweak []byte, row []uint16, way direction) ([]uint16, error) {
	ff1 := func(row []uint16, way direction) ([]uint16, error) {
		image := slices.Clone(row)
		for range maxWalk {
			var err error
			if way == encrypt {
				image, err = c.Encrypt(image[:0], image, tweak)
			} else {
				image, err = c.Decrypt(image[:0], image, tweak)
			}
			if err != nil || s.o.Kind != kindDate || s.dates.read(image) < s.dates.count {
				return image, err
			}
		}
		return nil, errWalk
	}
	if s.o.Luhn == luhnInvalid {
		return ff1(row, way)
	}
	return permutation{ff1, s.next}.apply(row, way)
}

// next is the row after (+1) or before (-1) in a ring of rows: of all dates, or of those that differ in the last numeral.
func (s *Shape) next(row []uint16, step int) []uint16 {
	out := slices.Clone(row)
	if s.o.Kind == kindDate {
		s.dates.write(out, (s.dates.read(row)+step+s.dates.count)%s.dates.count)
		return out
	}
	last, radix := len(out)-1, s.radix()
	out[last] = uint16((int(out[last]) + step + radix) % radix)
	return out
}

// draw fills a row at random, evenly.
func (s *Shape) draw(random io.Reader, row []uint16) error {
	radix := s.radix()
	most := 1<<16 - 1<<16%radix // what is drawn from here on would come up more often than the rest
	var b [2]byte
	for i := 0; i < len(row); {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return err
		}
		if n := int(binary.BigEndian.Uint16(b[:])); n < most {
			row[i] = uint16(n % radix)
			i++
		}
		if s.o.Kind == kindDate && i == len(row) && s.dates.read(row) >= s.dates.count {
			i = 0
		}
	}
	return nil
}
