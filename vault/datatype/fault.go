package datatype

// Fault says which rule a value breaks. It never holds the value or a part of it: every Rule and Detail is a constant of
// this package.
type Fault struct { //nolint:errname // a fault is found in a value; it is an error only for those who want one
	Rule   string // a short stable slug: "luhn", "email", "type", "max-length", …
	Detail string // a sentence that says what to do
}

// Error is the rule and the detail.
func (f *Fault) Error() string { return f.Rule + ": " + f.Detail }

func fault(rule, detail string) *Fault { return &Fault{rule, detail} }
