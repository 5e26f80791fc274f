"""The networks, their cost and the vanishing gradient as pictures: for the page, SVG and pixels."""
