package dsar

import (
	"slices"
	"time"
)

// Processing is what a person is told about what is done with the data: processing.json. Categories and Rights are filled in by
// the Writer.
type Processing struct {
	Categories  []*Category  `json:"categories"`
	Purposes    []Purpose    `json:"purposes"`
	Recipients  []Recipient  `json:"recipients"` // who saw values
	Sources     []Recipient  `json:"sources"`    // who stored or changed values
	Statements  []Statement  `json:"statements"` // what the person said about it, the oldest first
	Restriction *Restriction `json:"restriction,omitempty"`
	Rights      []Right      `json:"rights"`

	Jurisdiction string `json:"jurisdiction,omitempty"` // under which the person is taken to be: ISO 3166
}

// Category is what one collection holds of the person.
type Category struct {
	Collection      string           `json:"collection"`
	Description     string           `json:"description,omitempty"`
	Records         int              `json:"records"`
	FirstStored     *time.Time       `json:"first_stored_at,omitempty"`
	LastChanged     *time.Time       `json:"last_changed_at,omitempty"`
	LastExpiry      *time.Time       `json:"last_expires_at,omitempty"`
	NeverExpire     int              `json:"records_without_expiry"`
	Purposes        []string         `json:"purposes,omitempty"`
	PurposeRequired bool             `json:"purpose_required,omitempty"`
	Retention       *Retention       `json:"retention,omitempty"`
	Fields          []*CategoryField `json:"fields"`
}

// CategoryField is a field of which the person has values.
type CategoryField struct {
	Name string `json:"field"`
	Field
	Values int `json:"values"`
}

func newCategory(c Collection) *Category {
	about := &Category{Collection: c.Name, Description: c.Description, Purposes: c.Purposes, PurposeRequired: c.PurposeRequired, Retention: c.Retention}
	for _, f := range c.Fields {
		about.Fields = append(about.Fields, &CategoryField{Name: f.Name, Field: f})
	}
	return about
}

func (c *Category) count(r *Record) {
	c.Records++
	for _, f := range c.Fields {
		if r.Values[f.Name] != nil || slices.Contains(r.Held, f.Name) {
			f.Values++
		}
	}
	if c.FirstStored == nil || r.Created.Before(*c.FirstStored) {
		c.FirstStored = &r.Created
	}
	if c.LastChanged == nil || r.Updated.After(*c.LastChanged) {
		c.LastChanged = &r.Updated
	}
	switch {
	case r.Expires == nil:
		c.NeverExpire++
	case c.LastExpiry == nil || r.Expires.After(*c.LastExpiry):
		c.LastExpiry = r.Expires
	}
}

// Purpose is what data is read for.
type Purpose struct {
	Name        string `json:"purpose"`
	Description string `json:"description,omitempty"`
	LegalBasis  string `json:"legal_basis"`
	TextVersion string `json:"consent_text_version,omitempty"`
}

// Recipient is somebody who was shown, or stored, data of the person for one purpose.
type Recipient struct {
	Principal string              `json:"principal"`
	Purpose   string              `json:"purpose,omitempty"`
	Fields    map[string][]string `json:"fields"` // by collection
	Times     int                 `json:"times"`
	First     time.Time           `json:"first_at"`
	Last      time.Time           `json:"last_at"`
}

// Statement is a consent or an objection, given or withdrawn.
type Statement struct {
	At          time.Time `json:"at"`
	Kind        string    `json:"kind"`
	Purpose     string    `json:"purpose,omitempty"`
	Given       bool      `json:"given"` // or withdrawn
	TextVersion string    `json:"text_version,omitempty"`
	Reference   string    `json:"reference,omitempty"`
}

// Restriction is that processing is restricted now.
type Restriction struct {
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	Allowed []string  `json:"allowed_purposes,omitempty"`
}

// Right is a right of the person.
type Right struct {
	Name string `json:"right"`
	Law  string `json:"law"`
	Text string `json:"text"`
}

// rights are those that each regime names. Nothing else of a report depends on the regime but what may not be sent.
var rights = map[string][]Right{
	GDPR: {
		{"Access", "GDPR, Article 15", "You can ask what is held about you and get a copy. This package is that copy."},
		{"Correction", "GDPR, Article 16", "You can have wrong data corrected and incomplete data completed."},
		{"Erasure", "GDPR, Article 17", "You can have your data erased where one of the grounds in that article applies."},
		{"Restriction", "GDPR, Article 18", "You can ask that your data is kept but not otherwise used, in the cases of that article."},
		{"Portability", "GDPR, Article 20", "You can get the data that you gave, in a form that computers read, where it is used because you agreed or for a contract."},
		{"Objection", "GDPR, Article 21", "You can object to uses that rest on a public task or on legitimate interests, and at any time to direct marketing."},
		{"Withdrawal of consent", "GDPR, Article 7(3)", "You can withdraw at any time what you agreed to. What was done before stays lawful."},
		{"Automated decisions", "GDPR, Article 22", "You can ask whether decisions about you are made by computers alone, by what logic, and object to them. Privault, which made this package, makes none; ask the organisation."},
		{"Complaint", "GDPR, Article 77", "You can complain to a supervisory authority, for example where you live or work."},
	},
	CCPA: {
		{"Right to know", "Cal. Civ. Code 1798.100, 1798.110", "You can ask what is held about you and get a copy. This package is that copy."},
		{"Right to delete", "Cal. Civ. Code 1798.105", "You can ask that personal information that was collected from you is deleted. The law has exceptions."},
		{"Right to correct", "Cal. Civ. Code 1798.106", "You can have inaccurate personal information corrected."},
		{"Right to opt out", "Cal. Civ. Code 1798.120", "You can direct a business not to sell or share your personal information."},
		{"Right to limit", "Cal. Civ. Code 1798.121", "You can limit the use of your sensitive personal information."},
		{"No retaliation", "Cal. Civ. Code 1798.125", "Nobody may treat you worse because you used these rights."},
		{"Complaint", "Cal. Civ. Code 1798.199.45", "You can complain to the California Privacy Protection Agency."},
	},
	HIPAA: {
		{"Access", "45 CFR 164.524", "You can inspect your health information in a designated record set and get a copy. This package is that copy."},
		{"Amendment", "45 CFR 164.526", "You can ask that it is amended, and have a statement of disagreement added if that is denied."},
		{"Accounting of disclosures", "45 CFR 164.528", "You can ask to whom it was disclosed."},
		{"Restriction and confidential communications", "45 CFR 164.522", "You can ask for limits on its use, and to be reached in another way or place."},
		{"Complaint", "45 CFR 164.524(d), 160.306", "You can complain to the organisation and to the Secretary of Health and Human Services."},
	},
}

// bases are the legal bases of GDPR 6, in plain words.
var bases = map[string]string{
	"consent":              "you agreed to it",
	"contract":             "it is needed for a contract with you, or before one",
	"legal_obligation":     "a law demands it",
	"vital_interests":      "somebody's life depends on it",
	"public_task":          "it is needed for a task in the public interest",
	"legitimate_interests": "the organisation, or somebody else, has a legitimate interest in it",
}
