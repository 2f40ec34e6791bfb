package datatype

import "encoding/json"

// Description is what GET /v1/types says of a type.
type Description struct {
	Name     string     `json:"name"`
	About    string     `json:"description"`
	Examples []Example  `json:"examples"`
	Indexes  []string   `json:"indexes"` // of enough different values
	Masks    MaskLimits `json:"masks"`
}

// Example is a value, and what its type's own mask shows of it.
type Example struct {
	Value  json.RawMessage `json:"value"`
	Masked string          `json:"masked"`
}

// customExample is what stands for all the types that owners make.
var customExample = CustomDefinition{Pattern: `^[A-Z]{2}[0-9]{6}$`, Normalise: []string{stepTrim, stepUpper}}

// Describe documents all types, custom among them, in the order of their names. The examples go through the types.
func Describe() []Description {
	var all []Description
	for i := range specs {
		all = append(all, describe(Type{&specs[i]}, specs[i].about, specs[i].examples))
	}
	return all
}

// DescribeCustom documents custom types by one of them.
func DescribeCustom() Description {
	t, _ := Custom(customExample)
	return describe(t, "what the field's own pattern says: "+customExample.Pattern+" here", []string{`"AB123456"`})
}

func describe(t Type, about string, examples []string) Description {
	d := Description{Name: t.Name(), About: about, Masks: t.Masks()}
	for _, raw := range examples {
		if value, f := t.Parse([]byte(raw)); f == nil {
			d.Examples = append(d.Examples, Example{json.RawMessage(raw), t.Mask(value)})
		}
	}
	for _, kind := range t.Kinds() {
		if t.Cardinality(kind) >= FewestValues {
			d.Indexes = append(d.Indexes, kind)
		}
	}
	return d
}
