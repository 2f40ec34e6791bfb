package datatype

import (
	"encoding/json"
	"slices"
	"strings"
)

// Description is what GET /v1/types says of a type.
type Description struct {
	Name      string     `json:"name"`
	About     string     `json:"description"`
	Pattern   string     `json:"pattern,omitempty"`   // of the example of custom
	Normalise []string   `json:"normalise,omitempty"` // likewise
	Examples  []Example  `json:"examples"`
	Indexes   []string   `json:"indexes"` // of enough different values
	Masks     MaskLimits `json:"masks"`
}

// Example is a value, and what its type's own mask shows of it.
type Example struct {
	Value  json.RawMessage `json:"value"`
	Masked string          `json:"masked"`
}

// customExample stands for all the types that owners make.
var customExample = CustomDefinition{Pattern: `^[A-Z]{2}[0-9]{6}$`, Normalise: []string{stepTrim, stepUpper}}

// Describe documents all types, custom among them, in the order of their names. The examples go through the types.
func Describe() []Description {
	own, _ := Custom(customExample)
	all := []Description{describe(own, "what the field's own pattern says, such as "+customExample.Pattern, []string{`"AB123456"`})}
	all[0].Pattern, all[0].Normalise = customExample.Pattern, customExample.Normalise
	for i := range specs {
		all = append(all, describe(Type{&specs[i]}, specs[i].about, specs[i].examples))
	}
	slices.SortFunc(all, func(a, b Description) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func describe(t Type, about string, examples []string) Description {
	d := Description{Name: t.Name(), About: about, Masks: t.Masks(), Indexes: []string{}}
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
