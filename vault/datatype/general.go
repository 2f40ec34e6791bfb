package datatype

// Generalise gives what is left of a stored value that is made anonymous: the year of a date, the area of a postal code. It says
// false for types that have no such form, and for bytes that Parse never gave. What it gives is as Generalise leaves it.
//
//   - date, date_of_birth: the year, 1978
//   - postal_code: the letters that one of letters and digits begins with (SW of SW1A 1AA), and of others the first two digits: HIPAA's
//     three digits of a ZIP code name areas of fewer than 20,000 people too
func (t Type) Generalise(value []byte) ([]byte, bool) {
	s := t.spec()
	if s.generalise == nil {
		return nil, false
	}
	return s.generalise(value)
}

// Generalises says whether the type's values have a general form.
func (t Type) Generalises() bool { return t.spec().generalise != nil }

func yearAlone(value []byte) ([]byte, bool) {
	if isDate(value) {
		return value[:4:4], true
	}
	return value, len(value) == 4 && isDate(append(value[:4:4], "-01-01"...))
}

// areaDigits is how many digits of a postal code name an area.
const areaDigits = 2

func postalArea(value []byte) ([]byte, bool) {
	code, ok := compactPostal(value)
	if !ok {
		return value, isArea(value)
	}
	letters := 0
	for letters < len(code) && (code[letters] < '0' || code[letters] > '9') {
		letters++
	}
	if letters == 0 {
		return code[:areaDigits:areaDigits], true
	}
	return code[:min(letters, areaDigits):min(letters, areaDigits)], true
}

// isArea says whether a value is what postalArea has left of one.
func isArea(value []byte) bool {
	for _, c := range value {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(value) > 0 && len(value) <= areaDigits
}
