package main

import (
	"context"
	"fmt"
	"strings"
)

// The budgets are ratios to the reference: what must be, and what is aimed at.

func measureTokenize(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.singles(ctx, "tokenize", map[int]budget{64: {0.7, 1}, 256: {0, 1.4}}, b.tokenizing)
}

func measureDetokenize(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.singles(ctx, "detokenize", map[int]budget{64: {0.8, 1.2}}, b.detokenizing)
}

// singles measures a call of one item at every client count.
func (b *bencher) singles(ctx context.Context, work string, budgets map[int]budget, kind func(context.Context, int) (traffic, error)) (rows []benchRow, err error) {
	requests, err := kind(ctx, 1)
	if err != nil {
		return nil, err
	}
	for _, clients := range b.Clients {
		row, err := b.beside(ctx, benchRow{Work: work, Clients: clients, budget: budgets[clients]},
			b.load(clients, 1, requests), b.insertReference(clients, 1))
		if err != nil {
			return rows, err
		}
		rows = append(rows, row...)
	}
	return rows, nil
}

// load is a closed loop of calls, counted by what is in each.
func (b *bencher) load(clients, items int, requests traffic) func(context.Context) (figure, error) {
	return func(ctx context.Context) (figure, error) {
		f, err := b.closed(ctx, clients, b.Time, requests)
		f.value *= float64(items)
		return f, err
	}
}

// tokenizing stores new e-mail addresses, so many in a call.
func (b *bencher) tokenizing(ctx context.Context, items int) (traffic, error) {
	collection, err := b.define(ctx, "write", emailField)
	if err != nil {
		return nil, err
	}
	return b.storing(collection, "email", items, b.email), nil
}

// storing stores values of a field, so many in a call.
func (b *bencher) storing(collection, field string, items int, value func() string) traffic {
	return b.posts("/v1/tokenize", func(int) []byte {
		all := make([]string, items)
		for i := range all {
			all[i] = `{"fields":{"` + field + `":"` + value() + `"}}`
		}
		return []byte(batchBody(collection, all...))
	})
}

// detokenizing reads stored values, so many in a call, one after the other.
func (b *bencher) detokenizing(ctx context.Context, items int) (traffic, error) {
	tokens, err := b.stored(ctx)
	if err != nil {
		return nil, err
	}
	return b.reading(tokens, items, ""), nil
}

// reading reads tokens, so many in a call; place says where those are that don't say it themselves.
func (b *bencher) reading(tokens []string, items int, place string) traffic {
	return b.posts("/v1/detokenize", func(n int) []byte {
		all := make([]string, items)
		for i := range all {
			all[i] = `{"token":"` + tokens[(n*items+i)%len(tokens)] + `","view":"plain"` + place + `}`
		}
		return []byte(`{"items":[` + strings.Join(all, ",") + `]}`)
	})
}

func measureTokenizeBatch(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.batches(ctx, "tokenize", insertMany, b.tokenizing)
}

func measureDetokenizeBatch(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.batches(ctx, "detokenize", selectMany, b.detokenizing)
}

// batches measures calls of many items at four clients.
func (b *bencher) batches(ctx context.Context, work, reference string, kind func(context.Context, int) (traffic, error)) (rows []benchRow, err error) {
	const clients = 4
	for _, items := range b.Batch {
		requests, err := kind(ctx, items)
		if err != nil {
			return rows, err
		}
		row := benchRow{Work: fmt.Sprintf("%s, batch of %d", work, items), Clients: clients}
		if items == 1000 {
			row.AtLeast = 0.5
		}
		measured, err := b.beside(ctx, row, b.load(clients, items, requests), b.reference(clients, fmt.Sprintf(reference, items), items))
		if err != nil {
			return rows, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// measureOpen measures both calls in a closed loop, and then at shares of the rate that came out.
func measureOpen(ctx context.Context, b *bencher) (rows []benchRow, err error) {
	for _, call := range []struct {
		work string
		kind func(context.Context, int) (traffic, error)
	}{{"tokenize", b.tokenizing}, {"detokenize", b.detokenizing}} {
		requests, err := call.kind(ctx, 1)
		if err != nil {
			return rows, err
		}
		// A share for each round, of that round's rate: what disturbs the machine disturbs all three.
		var loop []figure
		open := map[int][]figure{}
		for range b.Rounds {
			f, err := b.closed(ctx, b.usual(), b.Time, requests)
			if err != nil {
				return rows, err
			}
			loop = append(loop, f)
			for _, share := range openShares {
				o, err := b.open(ctx, f.value*float64(share)/100, b.Time, requests)
				if err != nil {
					return rows, err
				}
				open[share] = append(open[share], o)
			}
		}
		middle := median(loop)
		rows = append(rows, benchRow{Work: call.work + ", closed loop", Clients: b.usual(), Unit: "calls/s",
			Measured: middle.value, P50: ms(middle.p50), P99: ms(middle.p99)})
		for _, share := range openShares {
			o := median(open[share])
			rows = append(rows, benchRow{Work: fmt.Sprintf("%s, open loop at %d %%", call.work, share), Measured: ms(o.p99), Reference: ms(middle.p99),
				P50: ms(o.p50), P99: ms(o.p99), Note: fmt.Sprintf("%.0f calls/s", o.value)})
		}
	}
	return rows, nil
}

// openShares are the arrival rates of the open loop, in percent of the closed one's.
var openShares = []int{50, 80}

func measureDeterministic(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.strategy(ctx, "deterministic", "email", `{"type":"email","index":["exact"],"token":{"strategy":"deterministic"}}`, b.email)
}

func measureFPE(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.strategy(ctx, "fpe", "pan", `{"type":"pan","token":{"strategy":"fpe","keep_suffix":4,"luhn":"invalid"}}`, b.card)
}

// strategy measures storing and reading values of a field whose tokens are rows.
func (b *bencher) strategy(ctx context.Context, name, field, definition string, value func() string) ([]benchRow, error) {
	collection, err := b.define(ctx, name, `{"`+field+`":`+definition+`}`)
	if err != nil {
		return nil, err
	}
	rows, err := b.beside(ctx, benchRow{Work: "tokenize, " + name, Clients: b.usual()},
		b.load(b.usual(), 1, b.storing(collection, field, 1, value)), b.insertReference(b.usual(), 1))
	if err != nil {
		return nil, err
	}
	tokens, err := b.fill(ctx, collection, field, value)
	if err != nil {
		return rows, err
	}
	read, err := b.beside(ctx, benchRow{Work: "detokenize, " + name, Clients: b.usual()},
		b.load(b.usual(), 1, b.reading(tokens, 1, `,"collection":"`+collection+`","field":"`+field+`"`)), b.insertReference(b.usual(), 1))
	return append(rows, read...), err
}

// card is a card number that was not there before, Luhn-valid.
func (t *benchTarget) card() string {
	digits := fmt.Appendf(nil, "4%014d", t.values.Add(1))
	sum := 0
	for i, d := range digits {
		n := int(d - '0')
		if i%2 == 0 { // with the check digit, the number of digits is even
			n *= 2
		}
		sum += n/10 + n%10
	}
	return string(append(digits, byte('0'+(10-sum%10)%10)))
}

func measureRecords(ctx context.Context, b *bencher) (rows []benchRow, err error) {
	for _, fields := range []int{1, 8} {
		definition, values := make([]string, fields), make([]string, fields)
		for i := range fields {
			definition[i] = fmt.Sprintf(`"field_%d":{"type":"string"}`, i)
			values[i] = fmt.Sprintf(`"field_%d":"the value of a field %d"`, i, i)
		}
		record := strings.Join(values, ",")
		collection, err := b.define(ctx, "fields", "{"+strings.Join(definition, ",")+"}")
		if err != nil {
			return rows, err
		}
		write := []byte(batchBody(collection, `{"fields":{`+record+`}}`))
		var items []string
		for range 1000 {
			items = append(items, `{"fields":{`+record+`}}`)
		}
		stored, err := b.store(ctx, collection, items)
		if err != nil {
			return rows, err
		}
		for _, call := range []struct {
			verb     string
			values   int // of their size in the reference's row
			requests traffic
		}{
			{"store", fields, b.posts("/v1/tokenize", func(int) []byte { return write })},
			{"read", 1, func(sent []byte, n int) []byte {
				return b.request(sent, "GET", "/v1/collections/"+collection+"/records/"+stored[n%len(stored)].Record+"?view=plain", nil)
			}},
		} {
			row := benchRow{Work: fmt.Sprintf("%s a record, fields: %d", call.verb, fields), Clients: b.usual()}
			measured, err := b.beside(ctx, row, b.load(b.usual(), 1, call.requests), b.insertReference(b.usual(), call.values))
			if err != nil {
				return rows, err
			}
			rows = append(rows, measured...)
		}
	}
	return rows, nil
}

func measureSearch(ctx context.Context, b *bencher) ([]benchRow, error) {
	collection, err := b.define(ctx, "search", `{"email":{"type":"email","index":["exact"]}}`)
	if err != nil {
		return nil, err
	}
	stored := 0
	if _, err := b.fill(ctx, collection, "email", func() string {
		stored++
		return fmt.Sprintf("jane.roe.%d@example.com", stored)
	}); err != nil {
		return nil, err
	}
	requests := b.posts("/v1/collections/"+collection+"/search", func(n int) []byte {
		return fmt.Appendf(nil, `{"field":"email","equals":"jane.roe.%d@example.com"}`, 1+n*7919%benchTokens)
	})
	return b.beside(ctx, benchRow{Work: "search", Clients: b.usual()}, b.load(b.usual(), 1, requests), b.reference(b.usual(), selectOne, 1))
}
