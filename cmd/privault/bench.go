package main

import "errors"

type benchCmd struct{}

func (b *benchCmd) Run() error { return errors.New("not yet") }
