package datatype

import "bytes"

// specs are the types, sorted by name. The order is no part of any stored form.
var specs = [...]spec{
	{
		name: "address", about: "a postal address of one or more lines, up to 1,024 bytes",
		examples: []string{`"221B Example Street, London NW1 6XE"`},
		textMax:  maxAddress, check: checkAddress, normalise: normaliseAddress, mask: hide,
		index: index{exact: many},
	},
	{
		name: "boolean", about: "true or false",
		examples: []string{`true`},
		check:    checkBoolean, normalise: bytes.Clone, mask: hide,
		index: index{exact: 2},
	},
	{
		name: "bytes", about: "any bytes, as base64 (RFC 4648, standard alphabet, padded), up to 65,536 of them",
		examples: []string{`"3q2+7w=="`},
		textMax:  canonical.EncodedLen(maxValue), decode: decodeBase64, encode: encodeBase64, normalise: bytes.Clone, mask: hide,
		index: index{exact: many},
	},
	{
		name: "date", about: "a calendar date, YYYY-MM-DD",
		examples: []string{`"2026-02-28"`},
		textMax:  maxValue, check: checkDate, normalise: bytes.Clone, mask: maskDate, shows: shown{year: true}, generalise: yearAlone,
		index: index{exact: century, year: yearOf},
	},
	{
		name: "date_of_birth", about: "a date of birth, YYYY-MM-DD, from 1850-01-01 on",
		examples: []string{`"1978-05-06"`},
		textMax:  maxValue, check: checkBirth, normalise: bytes.Clone, mask: maskDate, shows: shown{year: true}, generalise: yearAlone,
		index: index{exact: century, year: yearOf},
	},
	{
		name: "email", about: "one e-mail address (RFC 5321, RFC 6531) with a full host name; no display name, quotes or comment",
		examples: []string{`"jane@example.com"`, `"Jane.Roe@münchen.example"`},
		textMax:  maxEmail, check: checkEmail, normalise: normaliseEmail, mask: maskEmail, shows: shown{first: 1, domain: true},
		ends:  freeText,
		index: index{exact: many, domain: emailDomain},
	},
	{
		name: "iban", about: "a bank account number (ISO 13616) of a country in the IBAN Registry, its check digits right",
		telling:  "a financial account number (bank account, IBAN)",
		examples: []string{`"DE89 3704 0044 0532 0130 00"`, `"NO9386011117947"`},
		textMax:  maxValue, check: checkIBAN, normalise: normaliseIBAN, mask: maskIBAN, shows: shown{first: 2, last: 4},
		ends:  ends{compacted(normaliseIBAN, checkIBAN, ""), "", minIBAN, 6, 8, 4},
		index: index{exact: many, last4: 10_000, fold: foldIBAN},
	},
	{
		name: "ip", about: "one IPv4 or IPv6 address",
		examples: []string{`"192.0.2.17"`, `"2001:db8::17"`},
		textMax:  maxValue, check: checkIP, normalise: normaliseIP, mask: maskIP, shows: shown{first: 2},
		index: index{exact: many},
	},
	{
		name: "json", about: "any JSON value but null, up to 65,536 bytes and 32 levels",
		examples: []string{`{"plan":"gold","since":2019}`},
		check:    checkJSON, normalise: normaliseJSON, mask: hide,
		index: index{exact: many},
	},
	{
		name: "name", about: "a person's name, up to 1,024 bytes, without control characters",
		examples: []string{`"Jane Roe"`},
		textMax:  maxName, check: checkName, normalise: normaliseText, mask: maskName, shows: shown{first: 4},
		ends:  freeText,
		index: index{exact: many, fold: foldText, prefix: letters, maxPrefix: longestPrefix},
	},
	{
		name: "number", about: "a JSON number of up to 40 characters; no digit is lost",
		examples: []string{`1.50`},
		check:    checkNumber, normalise: normaliseNumber, mask: hide,
		index: index{exact: many},
	},
	{
		name: "pan", about: "a card number of 13 to 19 digits, Luhn-valid, with single spaces or dashes between digits",
		telling:  "a financial account number (payment card)",
		examples: []string{`"4111 1111 1111 1111"`, `"378282246310005"`},
		textMax:  maxValue, check: checkPAN, normalise: normalisePAN, mask: maskPAN, shows: shown{last: 4},
		ends:  ends{compacted(normalisePAN, checkPAN, ""), "", minPAN, 3, maxBIN, 4},
		index: index{exact: many, last4: 10_000, fold: foldDigits(" -"), prefix: digits, maxPrefix: maxBIN},
	},
	{
		name: "phone", about: "an international telephone number (E.164), with spaces, dashes, dots and parentheses between digits",
		examples: []string{`"+44 20 7183 8750"`},
		textMax:  maxValue, check: checkPhone, normalise: normalisePhone, mask: maskPhone, shows: shown{first: 3, last: 2},
		ends:  ends{compacted(normalisePhone, checkPhone, "+"), "+", 7, 3, 6, 4},
		index: index{exact: many, last4: 10_000, fold: foldDigits("+ -.()"), prefix: national, maxPrefix: longestPrefix},
	},
	{
		name: "postal_code", about: "a postal code of any country: 3 to 10 letters and digits, with single spaces or dashes between them",
		examples: []string{`"94105-1234"`, `"SW1A 1AA"`},
		textMax:  maxValue, check: checkPostal, normalise: normalisePostal, mask: maskPostal, shows: shown{first: 2}, generalise: postalArea,
		ends:  ends{compacted(normalisePostal, checkPostal, ""), "", 0, 2, 4, 2},
		index: index{exact: 40_000, fold: foldPostal, prefix: digits, maxPrefix: minPostal + 2},
	},
	{
		name: "string", about: "text of one kind, such as an account number, up to 65,536 bytes",
		examples: []string{`"ACC-00123"`},
		textMax:  maxValue, normalise: normaliseText, mask: hide,
		ends:  freeText,
		index: index{exact: many, last4: 10_000, fold: foldText, prefix: letters, maxPrefix: longestPrefix},
	},
	{
		name: "text", about: "prose, up to 65,536 bytes",
		examples: []string{`"Called about her invoice."`},
		textMax:  maxValue, normalise: normaliseText, mask: hide,
		index: index{exact: many},
	},
	{
		name: "url", about: "an absolute http or https URL without user and password, up to 2,048 bytes",
		examples: []string{`"https://www.example.com/people/jane?tab=1"`},
		textMax:  maxValue, check: checkURL, normalise: normaliseURL, mask: maskURL, shows: shown{domain: true},
		index: index{exact: many, domain: urlDomain},
	},
	{
		name: "us_ssn", about: "a US social security number, ddd-dd-dddd or nine digits, in a range that is given out",
		telling:  "a Social Security number",
		examples: []string{`"123-45-6789"`},
		textMax:  maxValue, check: checkSSN, normalise: normaliseSSN, mask: maskSSN, shows: shown{last: 4},
		ends:  ends{compacted(normaliseSSN, checkSSN, ""), "", 9, 5, 3, 4},
		index: index{exact: many, last4: 10_000, fold: foldDigits("-")},
	},
}

// freeText are the characters of a text of any length.
var freeText = ends{of: wholeText, first: longestPrefix, last: longestPrefix}
