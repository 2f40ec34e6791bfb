package datatype_test

import (
	"testing"

	"github.com/privault/privault/vault/datatype"
)

func TestWhatIsLeftOfAValue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, value, want string }{
		{"date", "1984-02-29", "1984"},
		{"date_of_birth", "1978-05-06", "1978"},
		{"postal_code", "94105-1234", "94"},
		{"postal_code", "10115", "10"},
		{"postal_code", "sw1a 1aa", "SW"},
		{"postal_code", "M1 1AE", "M"},
		{"postal_code", "D02 AF30", "D"},
		{"postal_code", "ABCD 12", "AB"},
	} {
		typ, known := datatype.Lookup(c.typ)
		if !known {
			t.Fatal(c.typ)
		}
		got, ok := typ.Generalise([]byte(c.value))
		if !ok || string(got) != c.want {
			t.Errorf("%s %s: %q, %t, want %q", c.typ, c.value, got, ok, c.want)
		}
		if again, ok := typ.Generalise(got); !ok || string(again) != c.want {
			t.Errorf("%s %s, generalised again: %q, %t", c.typ, got, again, ok)
		}
		if json, err := typ.JSON(got); err != nil || string(json) != `"`+c.want+`"` {
			t.Errorf("%s is shown as %s, %v", got, json, err)
		}
		if mask := typ.Mask(got); mask == c.want {
			t.Errorf("the mask shows %s whole", mask)
		}
	}
	for _, name := range datatype.Names() {
		typ, _ := datatype.Lookup(name)
		if want := name == "date" || name == "date_of_birth" || name == "postal_code"; typ.Generalises() != want {
			t.Errorf("%s generalises: %t", name, !want)
		}
	}
	date, _ := datatype.Lookup("date")
	for _, value := range []string{"", "198", "19840", "ABCD", "1984-13-01"} {
		if got, ok := date.Generalise([]byte(value)); ok {
			t.Errorf("%q generalises to %q", value, got)
		}
	}
}
