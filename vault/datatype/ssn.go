package datatype

import "bytes"

// checkSSN accepts ddd-dd-dddd or nine digits within what the Social Security Administration gives out (SSA, "Social
// Security Number Randomization", 2011): no area 000, 666 or 900–999, no group 00, no serial 0000.
func checkSSN(value []byte) *Fault {
	digits, ok := ssnDigits(value)
	if !ok || !isAssignableSSN(digits) {
		return fault("ssn", "send a US social security number as ddd-dd-dddd or nine digits, in a range that is given out")
	}
	return nil
}

func ssnDigits(value []byte) ([]byte, bool) {
	if isDashedSSN(value) {
		return append(append(append(make([]byte, 0, 9), value[:3]...), value[4:6]...), value[7:]...), true
	}
	return value, len(value) == 9 && allDigits(value)
}

// isDashedSSN is the shape ddd-dd-dddd, in any range.
func isDashedSSN(b []byte) bool {
	return len(b) == 11 && b[3] == '-' && b[6] == '-' && allDigits(b[:3]) && allDigits(b[4:6]) && allDigits(b[7:])
}

func isAssignableSSN(digits []byte) bool {
	area, group, serial := string(digits[:3]), string(digits[3:5]), string(digits[5:])
	return area != "000" && area != "666" && area[0] != '9' && group != "00" && serial != "0000"
}

func normaliseSSN(value []byte) []byte {
	digits, _ := ssnDigits(value)
	return bytes.Clone(digits)
}

func maskSSN(value []byte) string {
	digits, ok := ssnDigits(value)
	if !ok {
		return hide(value)
	}
	return "***-**-" + string(digits[5:])
}
